"""leafe-verl compare: figures, pairing, files, and what it refuses."""

import json

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed; the extra `plots` has it")
pytest.importorskip("plotext", reason="plotext is not installed; the extra `plots` has it")

from evaluation.stores import write_store, write_trees
from leafe_verl.cli import main
from leafe_verl.evaluation.bootstrap import bootstrap
from leafe_verl.evaluation.compare import compare


@pytest.fixture
def base(tmp_path):
    return write_store(tmp_path / "base", {"a": "----", "b": "+---", "c": "++--"})


@pytest.fixture
def better(tmp_path):
    return write_store(tmp_path / "better", {"a": "+---", "b": "++--", "c": "+++-"}, model="better")


def written(path):
    return json.loads(path.with_suffix(".json").read_text())


def test_the_figures_are_those_of_the_estimator(base, better, tmp_path):
    out = tmp_path / "made" / "comparison"
    assert compare({"base": base, "better": better}, out, ks=[1, 4]) == 0
    (found,) = written(out)["comparisons"]
    assert (found["kind"], found["ks"], found["baseline"]) == ("attempts", [1, 4], "base")
    assert found["estimates"]["base"]["1"]["mean"] == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert found["estimates"]["base"]["4"]["mean"] == pytest.approx(2 / 3)
    assert found["estimates"]["better"]["4"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "tasks": 3}
    interval = bootstrap([0, 0.25, 0.5])
    assert found["estimates"]["base"]["1"]["low"] == pytest.approx(interval.low)
    assert sorted(found["curves"]["base"], key=int) == ["1", "2", "4"]
    assert found["spent"]["base"] == {"environment steps": 1.0, "sampled tokens": 3.0}


def test_differences_are_paired_over_the_tasks_that_both_have(base, tmp_path):
    other = write_store(tmp_path / "other", {"b": "++--", "c": "+++-", "z": "++++"})
    compare({"base": base, "other": other}, tmp_path / "made", ks=[1])
    (found,) = written(tmp_path / "made")["comparisons"]
    assert found["shared"] == {"other": 2}
    # Each shared task is better by a quarter, so that the paired interval has no width.
    assert found["differences"]["other"]["1"] == {"mean": 0.25, "low": 0.25, "high": 0.25, "tasks": 2}


def test_the_tables_are_in_the_file_and_in_the_terminal(base, better, tmp_path, capsys):
    assert main(["compare", f"base={base}", f"better={better}", "--out", str(tmp_path / "made"), "--k", "1,4"]) == 0
    shown, file = capsys.readouterr().out, (tmp_path / "made.md").read_text()
    for text in (shown, file):
        assert "Pass@k, % (95 % interval over tasks)" in text
        assert "Difference to base, points (95 % interval; shared tasks: better 3)" in text
        assert "100.0 (100.0 to 100.0)" in text
        assert "+25.0 (25.0 to 25.0)" in text
    assert "| base |" in file and "![Pass@k over k](made.svg)" in file


def test_the_picture_shows_every_run(base, better, tmp_path, capsys):
    compare({"base": base, "better": better}, tmp_path / "made")
    picture = (tmp_path / "made.svg").read_text()
    assert picture.startswith("<?xml") and "<!-- base -->" in picture and "<!-- better -->" in picture
    chart = capsys.readouterr().out
    assert "oo base" in chart and "xx better" in chart and "\033" not in chart


def test_trees_are_compared_by_what_is_solved_within_the_budget(tmp_path, capsys):
    rollback = write_trees(tmp_path / "rollback", {"a": "-+", "b": "--", "c": "+", "d": "?"})
    sampling = write_trees(tmp_path / "sampling", {"a": "--", "b": "--", "c": "+-"})
    assert compare({"rollback": rollback, "sampling": sampling}, tmp_path / "made", baseline="sampling") == 0
    (found,) = written(tmp_path / "made")["comparisons"]
    assert found["kind"] == "trees"
    assert found["estimates"]["rollback"]["1"]["mean"] == pytest.approx(2 / 3)
    assert found["differences"]["rollback"]["1"]["mean"] == pytest.approx(1 / 3)
    assert found["spent"]["sampling"]["environment steps"] == 2.0
    assert found["spent"]["rollback"]["environment steps"] == 1.5, "six attempts of one step, in four trees"
    assert not (tmp_path / "made.svg").exists()
    assert found["diagnostics"]["rollback"]["branch_success_depth_1"] == 0.5
    shown = capsys.readouterr().out
    assert "Solved within the budget" in shown and "Pass@" not in shown
    assert "Reflections and branches" in shown and "branches that succeeded" in shown
    assert "rollback: 1 of 4 tasks have no scored attempt and are left out" in shown


def test_attempts_and_trees_are_never_in_one_table(base, tmp_path):
    trees = write_trees(tmp_path / "trees", {"a": "-+"})
    compare({"base": base, "trees": trees}, tmp_path / "made")
    found = written(tmp_path / "made")["comparisons"]
    assert [(each["kind"], list(each["estimates"]), each["differences"]) for each in found] == [
        ("attempts", ["base"], {}),
        ("trees", ["trees"], {}),
    ]


def test_other_settings_and_unscored_attempts_are_noted(base, tmp_path, capsys):
    other = write_store(tmp_path / "other", {"a": "++?+-"}, model="other", horizon=2)
    compare({"base": base, "other": other}, tmp_path / "made")
    shown = capsys.readouterr().out
    assert "other was evaluated differently from base: horizon is 2, not 4" in shown
    assert "other: 1 unscored attempts are left out" in shown


def test_a_task_with_unscored_attempts_does_not_cut_the_curve_short(tmp_path, capsys):
    store = write_store(tmp_path / "run", {**{f"t{i}": "+---" for i in range(10)}, "broken": "+??"})
    compare({"run": store}, tmp_path / "made")
    (found,) = written(tmp_path / "made")["comparisons"]
    assert found["ks"] == [1, 2, 4]
    assert [found["estimates"]["run"][k]["tasks"] for k in ("1", "2", "4")] == [11, 10, 10]
    assert "run: Pass@4 is over the 10 of 11 tasks with 4 scored attempts" in capsys.readouterr().out


def test_the_training_budget_is_summed_over_steps(base, better, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    spent = [(0, 1000, 9000), (1, 10, 100), (2, 20, 200)]
    records = [
        {"step": step, "data": {"leafe/environment_steps": steps, "leafe/sampled_tokens": tokens}}
        for step, steps, tokens in spent
    ]
    (run_dir / "metrics-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    costs = ["--training", f"base={run_dir}@1", "--training", f"better={run_dir}", f"better={run_dir}@1"]
    assert main(["compare", f"base={base}", f"better={better}", "--out", str(tmp_path / "made"), *costs]) == 0
    assert written(tmp_path / "made")["training"] == {
        "base": {"environment steps": 10, "sampled tokens": 100},
        "better": {"environment steps": 40, "sampled tokens": 400},
    }
    assert "| better | 40 | 400 |" in (tmp_path / "made.md").read_text()


@pytest.mark.parametrize(
    "given, said",
    [
        (["--baseline", "nobody"], "no run is named nobody; there are base, better"),
        (["--training", "nobody=runs"], "no run is named nobody"),
        (["--k", "8"], "--k 8: base has 4 scored attempts of a task at most"),
    ],
)
def test_what_cannot_be_compared_is_refused(base, better, tmp_path, capsys, given, said):
    arguments = ["compare", f"base={base}", f"better={better}", "--out", str(tmp_path / "made"), *given]
    assert main(arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "made.json").exists()


def test_runs_without_a_shared_task_are_refused(base, tmp_path):
    with pytest.raises(ValueError, match="other and base share no task"):
        compare({"base": base, "other": write_store(tmp_path / "other", {"z": "++"})}, tmp_path / "made")


def test_a_folder_that_is_no_evaluation_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="empty: no evaluation in .*; expected the --out"):
        compare({"base": base, "empty": tmp_path}, tmp_path / "made")


def test_an_evaluation_without_a_scored_attempt_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="broken: .* holds no scored attempt"):
        compare({"base": base, "broken": write_store(tmp_path / "broken", {"a": "??"})}, tmp_path / "made")


def test_evaluations_in_different_precisions_are_refused(tmp_path):
    stores = {dtype: write_store(tmp_path / dtype, {"a": "+-"}, dtype=dtype) for dtype in ("float32", "bfloat16")}
    with pytest.raises(ValueError, match="different precisions: float32 in float32, bfloat16 in bfloat16"):
        compare(stores, tmp_path / "made")
    unknown = write_store(tmp_path / "unknown", {"a": "+-"})
    assert compare({"float32": stores["float32"], "unknown": unknown}, tmp_path / "made") == 0


def test_an_existing_folder_takes_the_files(base, better, tmp_path, capsys):
    folder = tmp_path / "tables.d"
    folder.mkdir()
    assert main(["compare", f"base={base}", f"better={better}", "--out", str(folder)]) == 0
    assert f"written: {folder / 'comparison'}.md" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [f"comparison.{end}" for end in ("json", "md", "svg")]
