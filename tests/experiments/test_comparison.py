"""A comparison with a launcher that only pretends: what is trained on what, what is done once, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from evaluation.stores import write_store
from fakes import ScriptedPolicy, grow, reflection
from leafe_verl.checkpoints import TRACKER
from leafe_verl.experiments import comparison, ledger, splits, training
from leafe_verl.experiments.budget import describe_misses, steps_for, train_to_budget
from leafe_verl.experiments.plan import METHODS, Plan
from leafe_verl.experiments.splits import draw_splits

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_mbpp.sh"
STEPS_OF_A_STEP = {"leafe": 64, "grpo": 30, "ace": 33}
"""Environment steps that a training step of each configuration spends here."""
SOLVED = {"rate-1e-5": "++-", "rate-1e-6": "+--"}
"""Outcomes of a task's attempts, by the rate in the path of the model."""


class FakeLauncher:
    """In the place of `subprocess.run`: writes what verl, evaluate and compare would leave."""

    def __init__(self):
        self.calls, self.fail = [], None
        """Commands so far; the text of a command that fails."""

    def __call__(self, command, env=None, **kwargs):
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, stdout="abc", stderr="")
        self.calls.append((command, env))
        if self.fail and self.fail in " ".join(command):
            return subprocess.CompletedProcess(command, 1)
        if "verl.trainer.main_ppo" in command:
            self._train(command, Path(env["RUN_DIR"]))
        elif "evaluate" in command:
            outcomes = next((told for rate, told in SOLVED.items() if rate in " ".join(command)), "+-")
            write_store(Path(command[command.index("--out") + 1]), {"a": outcomes, "b": "+-"}, dtype="float32")
        return subprocess.CompletedProcess(command, 0)

    def _train(self, command, run_dir):
        given = dict(text.split("=", 1) for text in command if "=" in text)
        spent = STEPS_OF_A_STEP[command[command.index("--config-name") + 1]]
        folder = run_dir / "checkpoints" / f"global_step_{given['trainer.total_training_steps']}"
        folder.mkdir(parents=True)
        (folder.parent / TRACKER).write_text(given["trainer.total_training_steps"])
        (run_dir / "precision.json").write_text('{"dtype": "float32"}')
        lines = [
            {"step": step, "data": {"leafe/environment_steps": spent, "leafe/sampled_tokens": 10 * spent}}
            for step in range(1, 1 + int(given["trainer.total_training_steps"]))
        ]
        (run_dir / "metrics-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def trained(self):
        """Configurations, folders and models of the trainings so far."""
        return [
            (command[command.index("--config-name") + 1], Path(env["RUN_DIR"]), env.get("MODEL"))
            for command, env in self.calls
            if "verl.trainer.main_ppo" in command
        ]


@pytest.fixture
def launcher(monkeypatch):
    fake = FakeLauncher()
    monkeypatch.setattr(ledger.subprocess, "run", fake)
    monkeypatch.setattr(training, "hf_folder", lambda model: model)
    monkeypatch.setattr(comparison, "hold", lambda run_dir: True)  # a lock is held until its process ends
    monkeypatch.delenv("LEAFE_CPU_DTYPE", raising=False)
    return fake


@pytest.fixture
def variables(tmp_path):
    source = tmp_path / "mbpp.jsonl"
    source.write_text("".join(json.dumps({"text": f"Task {i}", "test_list": []}) + "\n" for i in range(100)))
    numbers = {"TRAIN_TASKS": 64, "DEV_TASKS": 8, "TASKS": 16, "ATTEMPTS": 4, "ATTEMPTS_FEW": 2, "ATTEMPTS_DEV": 3}
    numbers |= {"ATTEMPTS_GIVEN": 0, "SPLIT_SEED": 0, "BUDGET": 4, "BATCH": 16, "BATCH_EPISODES": 2}
    paths = {"MBPP": str(source), "RUN_DIR": str(tmp_path / "run"), "MODEL": "base-model"}
    return {**{name: str(number) for name, number in numbers.items()}, **paths}


@pytest.fixture
def compare(monkeypatch, variables):
    def run(*overrides, **changed):
        for name, value in {**variables, "METHODS": "", "SEEDS": "0", "RATES": "", **changed}.items():
            monkeypatch.setenv(name, value)
        comparison.main(overrides)
        return Path(variables["RUN_DIR"])

    return run


def cells(run_dir):
    return {line["cell"]: line for line in map(json.loads, (run_dir / ledger.FILE).read_text().splitlines())}


def test_one_exploration_serves_every_method_that_distils(launcher, compare):
    run_dir = compare("leafe.generation.max_tokens=256", METHODS="reh_matched lcf dpo leafe kl kl_nll recovery")
    configurations, folders, models = zip(*launcher.trained(), strict=True)
    assert {*configurations} == {"leafe"} and {*models} == {"base-model"}
    assert [folder.relative_to(run_dir).parts[1] for folder in folders] == [
        *["explore", "reh_matched", "lcf", "dpo", "leafe", "kl", "kl_nll", "recovery"]
    ]
    for command, _ in launcher.calls:
        if "verl.trainer.main_ppo" in command:
            assert "leafe.generation.max_tokens=256" in command and "trainer.total_training_steps=4" in command
    explore, *others = [command for command, _ in launcher.calls if "verl.trainer.main_ppo" in command]
    assert "leafe.schedule.stages=explore" in explore
    store = f"leafe.collection.store='{run_dir}/seed0/explore/checkpoints/trees'"
    assert all(store in command and "leafe.schedule.stages=distil" in command for command in others)


def test_methods_that_begin_with_grpo_share_its_half_and_the_budget(launcher, compare, capsys):
    run_dir = compare(METHODS="grpo leafe_rl ace")
    half = str(run_dir / "seed0/grpo/default/half")
    begun = {(config, folder.name): model for config, folder, model in launcher.trained()}
    assert begun["leafe", "explore_rl"] == begun["ace", "default"] == begun["leafe", "default"] == half
    done = cells(run_dir)
    assert done["seed0/explore"]["environment_steps"] == 256
    # Half of 256 is 4 steps of 30, all of it 9; ACE's 33 a step are taken for 30.
    assert done["seed0/grpo/default/half"]["step"] == 4 and done["seed0/grpo/default"]["step"] == 9
    assert done["seed0/ace/default"]["environment_steps"] == 5 * 33
    assert "note: grpo spent 105.5 % of the budget" in capsys.readouterr().out
    (command,) = [command for command, _ in launcher.calls if "compare" in command]
    assert f"leafe_rl={run_dir}/seed0/grpo/default@4" in command


def test_the_half_that_others_begin_with_is_trained_at_grpo_s_own_rate(launcher, compare):
    run_dir = compare(METHODS="grpo leafe_rl ace", RATES="1e-5")
    done = cells(run_dir)
    assert done["seed0/grpo/rate-1e-5/half"]["step"] == 4 and done["seed0/grpo/rate-1e-5"]["step"] == 9
    assert not (run_dir / "seed0/grpo/default").exists()
    assert done["seed0/ace/after-1e-5"]["environment_steps"] == 5 * 33


def test_what_begins_with_grpo_begins_anew_if_grpo_chooses_another_rate(launcher, compare):
    compare(METHODS="grpo leafe_rl ace", RATES="1e-6")
    run_dir = compare(METHODS="grpo leafe_rl ace", RATES="1e-6 1e-5")
    begun = {str(folder.relative_to(run_dir)): model for _, folder, model in launcher.trained()}
    for rate in ("1e-6", "1e-5"):
        half = str(run_dir / f"seed0/grpo/rate-{rate}/half")
        assert begun[f"seed0/explore_rl/after-{rate}"] == begun[f"seed0/ace/after-{rate}"] == half
    done = cells(run_dir)
    assert {"evaluations/ace/after-1e-6/held_out", "evaluations/ace/after-1e-5/held_out"} <= {*done}
    assert "evaluations/leafe_rl/rate-1e-5/after-1e-5/held_out" in done


def test_a_half_that_is_trained_beyond_is_refused(launcher, compare):
    run_dir = compare(METHODS="grpo")
    path = run_dir / ledger.FILE
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "/half" not in line))
    with pytest.raises(SystemExit, match="has spent 270 environment steps, and its weights are wanted at 128"):
        compare(METHODS="leafe_rl")


def test_what_is_finished_is_not_done_again(launcher, compare):
    run_dir = compare(METHODS="grpo leafe")
    before = len(launcher.calls)
    compare(METHODS="grpo leafe")
    assert [command[3] for command, _ in launcher.calls[before:]] == ["compare"]
    compare(METHODS="grpo leafe lcf")
    again = [folder.relative_to(run_dir).parts[1] for _, folder, _ in launcher.trained()]
    assert again == ["explore", "grpo", "grpo", "grpo", "leafe", "lcf"]


def test_a_cell_says_where_it_comes_from(launcher, compare):
    cell = cells(compare(METHODS="leafe"))["seed0/leafe/default"]
    assert cell["commit"] == "abc+" and cell["machine"]["cores"] >= 1 and cell["seed"] == 0
    assert cell["dtype"] == "float32" and cell["seconds"] >= 0 and "preset=paper" in cell["commands"][0]
    assert (cell["environment_steps"], cell["sampled_tokens"]) == (256, 2560)


def test_an_evaluation_s_figures_stand_in_its_cell(launcher, compare):
    cell = cells(compare(METHODS="lcf"))["evaluations/lcf/held_out"]
    assert cell["pass@1"] == 0.5 and cell["intervals"]["pass@1"] == [0.5, 0.5] and cell["attempts"] == 4
    assert "--attempts 2" in cell["commands"][0], "lcf has few"
    assert sum(task["attempts"] for task in cell["tasks"].values()) == 4
    assert sum(task["solved"] for task in cell["tasks"].values()) == 2


def test_every_method_chooses_among_the_same_rates_on_the_development_tasks(launcher, compare):
    run_dir = compare(METHODS="grpo leafe", RATES="1e-6 1e-5")
    done = cells(run_dir)
    assert {name for name in done if "evaluations/rates" in name} == {
        f"evaluations/rates/{method}/{rate}" for method in ("grpo", "leafe") for rate in ("1e-6", "1e-5")
    }
    told = done["evaluations/leafe/rate-1e-5/held_out"]["commands"][0]
    assert "leafe/rate-1e-5/checkpoints/global_step_4" in told and "held_out.jsonl" in told
    assert "dev.jsonl" in done["evaluations/rates/leafe/1e-6"]["commands"][0]


def test_another_rate_is_evaluated_anew_and_grpo_is_trained_only_where_it_is_needed(launcher, compare):
    compare(METHODS="recovery", RATES="1e-6")
    done = cells(compare(METHODS="recovery", RATES="1e-6 1e-5"))
    assert {f"evaluations/recovery/rate-{rate}/held_out" for rate in ("1e-6", "1e-5")} <= {*done}
    assert not any("grpo" in name for name in done)


def test_another_seed_explores_for_itself(launcher, compare):
    run_dir = compare(METHODS="leafe", SEEDS="0 1")
    done = cells(run_dir)
    assert {"seed0/explore", "seed1/explore", "evaluations/leafe_seed1/held_out"} <= {*done}
    assert "evaluations/base_seed1/held_out" not in done
    assert "data.seed=1" in done["seed1/leafe/default"]["commands"][0]


def test_a_cell_that_fails_is_not_finished(launcher, compare, variables):
    launcher.fail = "leafe.distillation.loss=dpo"
    with pytest.raises(SystemExit, match="ended with status 1; starting the comparison again goes on"):
        compare(METHODS="dpo")
    assert "seed0/dpo/default" not in cells(Path(variables["RUN_DIR"]))
    launcher.fail = None
    assert "seed0/dpo/default" in cells(compare(METHODS="dpo"))


@pytest.mark.parametrize("changed", [{"MODEL": "another"}, {"BUDGET": "5"}, {"BATCH": "32"}, {"BATCH_EPISODES": "4"}])
def test_a_comparison_goes_on_with_the_choices_that_it_began_with(launcher, compare, changed):
    compare("trainer.save_freq=1", METHODS="leafe")
    (name, value), *_ = changed.items()
    with pytest.raises(SystemExit, match=f"{name} is .*{value}.*, and the comparison in .* began with"):
        compare("trainer.save_freq=1", METHODS="leafe", **changed)
    with pytest.raises(SystemExit, match=r"overrides is \[\], and the comparison in .* began with \['trainer"):
        compare(METHODS="leafe")


def test_one_process_at_a_time_compares_in_a_folder(launcher, compare, monkeypatch):
    monkeypatch.setattr(comparison, "hold", lambda run_dir: False)
    with pytest.raises(SystemExit, match="another comparison is at work in"):
        compare(METHODS="leafe")
    assert not launcher.calls


def test_a_machine_that_goes_on_computes_in_the_precision_of_the_first_cell(launcher, compare):
    compare(METHODS="leafe")
    compare(METHODS="leafe lcf")
    assert launcher.calls[-2][1]["LEAFE_CPU_DTYPE"] == "float32"
    with pytest.raises(SystemExit, match="were computed in float32, and LEAFE_CPU_DTYPE is bfloat16"):
        compare(METHODS="leafe", LEAFE_CPU_DTYPE="bfloat16")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"METHODS": "leafe sft"}, "METHODS names sft; expected some of base, grpo"),
        ({"ATTEMPTS": "many"}, "ATTEMPTS is 'many'; expected an integer of at least 1"),
        ({"SEEDS": "0,1"}, "SEEDS is '0,1'; expected different integers"),
        ({"SEEDS": " "}, "SEEDS is ' '; expected different integers"),
        ({"SEEDS": "0 0"}, "SEEDS is '0 0'; expected different integers"),
        ({"RATES": "1e-5,1e-6"}, "RATES is '1e-5,1e-6'; expected learning rates above 0"),
        ({"RATES": "fast 1e-5"}, "RATES is 'fast 1e-5'; expected learning rates above 0"),
        ({"TRAIN_TASKS": "60"}, "TRAIN_TASKS is 60; expected a multiple of 2 x BATCH=16"),
        ({"TASKS": "60"}, "holds 100 different tasks, and 64 for train, 8 for dev, 60 for held_out"),
        ({"MBPP": "nowhere.jsonl"}, "is no .jsonl or .json file"),
    ],
)
def test_bad_choices_are_refused(launcher, compare, changed, said):
    with pytest.raises(SystemExit, match=said):
        compare(**changed)
    assert not launcher.calls


def test_every_method_has_a_training(variables):
    assert Plan.read({**variables, "METHODS": " ".join(METHODS)}, ()).methods[0] == "base"


class TestSplits:
    def drawn(self, source, folder, seed=0, **sizes):
        files = draw_splits(source, sizes or {"train": 4, "dev": 2, "held_out": 3}, seed, folder)
        return {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "all.jsonl"
        path.write_text("".join(json.dumps({"text": f"T{i % 10}", "code": i}) + "\n" for i in range(12)))
        return path

    def test_are_drawn_from_a_data_set_on_the_hub(self, tmp_path, monkeypatch):
        named = "hub:owner/name/full/train+validation"
        rows = {named: [{"text": f"T{i}"} for i in range(9)]}
        monkeypatch.setattr(splits, "hub_rows", rows.__getitem__)
        drawn = self.drawn(named, tmp_path / "a")
        assert len({row["text"] for of_one in drawn.values() for row in of_one}) == 9

    def test_a_source_that_is_none_or_too_small_is_answered_with_what_to_give(self, source, tmp_path):
        for wrong, said in ((tmp_path / "none.jsonl", "is no .jsonl or .json file"), (source, "10 different tasks")):
            with pytest.raises(ValueError, match=f"{said}.*such as mbpp.jsonl of google-research on GitHub, or hub:"):
                self.drawn(wrong, tmp_path / "a", train=64, dev=8)

    def test_are_disjoint_and_drawn_by_the_seed(self, source, tmp_path):
        first = self.drawn(source, tmp_path / "a")
        assert [len(rows) for rows in first.values()] == [4, 2, 3]
        texts = [row["text"] for rows in first.values() for row in rows]
        assert len({*texts}) == 9, "two rows with one text would be in two files"
        assert len({row["task_id"] for rows in first.values() for row in rows}) == 9
        assert self.drawn(source, tmp_path / "b") == first != self.drawn(source, tmp_path / "c", seed=1)

    def test_others_than_before_are_refused(self, source, tmp_path):
        self.drawn(source, tmp_path / "a")
        with pytest.raises(ValueError, match="train.jsonl holds other tasks than would be drawn now"):
            self.drawn(source, tmp_path / "a", seed=1)


class TestBudget:
    @pytest.mark.parametrize(
        ("budget", "done", "used", "steps"), [(1000, 0, 0, 3), (1000, 3, 300, 10), (1000, 10, 960, 10), (50, 0, 0, 1)]
    )
    def test_the_nearest_number_of_steps(self, budget, done, used, steps):
        assert steps_for(budget, 256, done, used) == steps

    def test_an_environment_that_is_never_played_is_refused(self):
        with pytest.raises(ValueError, match="3 training steps spent no environment step"):
            steps_for(1000, 256, 3, 0)

    def test_a_training_without_a_checkpoint_is_not_repeated_for_ever(self, tmp_path):
        with pytest.raises(ValueError, match="no checkpoint of step 3"):
            train_to_budget(tmp_path, 1000, 256, lambda steps: None)

    def test_steps_whose_metrics_a_kill_lost_are_not_taken_for_free(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / TRACKER).write_text("3")
        lines = [json.dumps({"step": step, "data": {"leafe/environment_steps": 100}}) for step in (1, 3)]
        (tmp_path / "metrics-1.jsonl").write_text("\n".join(lines))
        with pytest.raises(ValueError, match="has no metrics of steps 2, so that what it spent is unknown"):
            train_to_budget(tmp_path, 1000, 256, lambda steps: None)

    def test_the_recipe_s_trees_have_room_for_branches_where_every_attempt_fails(self):
        budgets = [int(number) for number in re.findall(r"BUDGET:=(\d+)", RECIPE.read_text(encoding="utf-8"))]
        for budget, horizon in zip(budgets, (4, 4, 2), strict=True):
            policy = ScriptedPolicy(lambda messages: "L", {horizon: reflection(1, "turn back")})
            limits = {"environment_steps": budget, "attempts": budget}
            recovering = {"recovery_targets": 4}
            tree = grow(policy, roots=4, environment={"horizon": horizon}, budget=limits, distillation=recovering)
            assert len(tree.branches()) >= 2

    def test_who_missed_it_is_said(self):
        assert describe_misses({"grpo": 1.04, "ace": 0.9}) == ["ace spent 90.0 % of the budget of environment steps"]
