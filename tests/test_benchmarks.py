"""What the benchmarks of speed print: ratios with their spread, from vLLM's counters and runs' metrics."""

import importlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.runs import COUNTER, counters_at, median_and_spread, ratio

BENCHMARKS = Path(run.__file__).parent


def test_a_ratio_is_of_medians_and_its_spread_is_that_of_single_runs():
    found = ratio("seconds", "the other", [10.0, 12.0, 11.0], [20.0, 22.0, 24.0], "at most 0.8")
    assert found["ratio"] == 0.5 and found["runs"] == 3
    assert found["spread"] == [10 / 24, 12 / 20]
    assert median_and_spread([3.0, 1.0, 2.0]) == "2 (1 to 3)" and median_and_spread([2.5]) == "2.5"


def test_counters_are_read_from_what_vllm_serves():
    served = (
        "# TYPE vllm:generation_tokens_total counter\n"
        'vllm:generation_tokens_total{engine="0",model_name="m"} 1234.0\n'
        'vllm:generation_tokens_created{engine="0"} 1.7e+09\n'
        'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 2.5e+03\n'
    )
    assert COUNTER.findall(served) == [("generation_tokens", "1234.0"), ("prefix_cache_hits", "2.5e+03")]


def test_a_port_that_speaks_no_http_counts_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=lambda: server.accept()[0].sendall(b"\x00\x00\r\n\r\n"))
        answering.start()
        assert counters_at(f"http://127.0.0.1:{server.getsockname()[1]}/metrics") == {}
        answering.join()


def test_processed_tokens_are_those_sampled_and_those_read_that_no_cache_held(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exploring = importlib.import_module("exploring")
    step = {"leafe/sampled_tokens": 100, "timing_s/gen": 10.0}
    step |= {"leafe/prompt_tokens/explore": 500, "leafe/cached_tokens/explore": 300}
    step |= {"leafe/prompt_tokens/reflect": 70, "leafe/cached_tokens/reflect": 20}
    assert exploring.per_second(step) == {"sampled tokens": 10.0, "processed tokens": 35.0}


def test_the_table_names_each_alternative_and_what_failed():
    result = {"ratios": [ratio("a step", "GRPO", [1.0], [2.0], "at most 0.8")], "more": 1}
    assert list(run.lines("step", result)) == [["a step", "GRPO", "0.50", "0.50 to 0.50", "1", "at most 0.8"]]
    assert list(run.lines("start", None))[0][0].startswith("start: failed")
    assert list(run.lines("environments", {"mbpp": {}})) == []


@pytest.mark.parametrize("name", ["start", "exploring", "step", "tree_store"])  # those that import little
def test_a_benchmark_takes_the_arguments_it_is_given(name):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *run.SCRIPTS[name], "--help"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_benchmark_s_last_line_is_its_result(monkeypatch, tmp_path, capfd):
    (tmp_path / "mine.py").write_text(f"print('a table')\nprint({json.dumps(json.dumps({'ratios': []}))})\n")
    (tmp_path / "broken.py").write_text("raise SystemExit('no')")
    monkeypatch.setattr(run, "HERE", tmp_path)
    assert run.run("mine") == {"ratios": []}
    assert run.run("broken") is None
    assert "a table" in capfd.readouterr().out
