"""An evaluation's results in one line, and what a comparison makes of it."""

from __future__ import annotations

import json

import pytest

from evaluation.given_stores import write_given, write_source
from evaluation.stores import write_judged, write_store
from leafe_verl.cli import main
from leafe_verl.evaluation.cells import read_cell, read_figures
from leafe_verl.evaluation.comparison import compare_runs, read_run

TASKS = {"a": ("aa-", "ab+", "b+", "cd-"), "b": ("ab-", "ab-", "c+", "d+")}


@pytest.fixture
def stores(tmp_path):
    other = {**TASKS, "b": ("b+", "b+", "ab+", "aa-")}
    return {"base": write_judged(tmp_path / "base", TASKS), "other": write_judged(tmp_path / "other", other)}


def write_cells(path, stores):
    cells = [{"cell": f"evaluations/{name}", **read_figures(store)} for name, store in stores.items()]
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    return path


def test_cells_compare_as_the_folders_do_that_they_are_made_from(stores, tmp_path):
    file = write_cells(tmp_path / "cells.jsonl", stores)
    kept = [read_cell(name, f"{file}@evaluations/{name}") for name in stores]
    assert compare_runs(kept, "base", None) == compare_runs([read_run(*each) for each in stores.items()], "base", None)


def test_the_command_takes_a_cell_in_place_of_a_folder(stores, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; the extra `plots` has it")
    pytest.importorskip("plotext", reason="plotext is not installed; the extra `plots` has it")
    file = write_cells(tmp_path / "cells.jsonl", stores)
    runs = [f"base={file}@evaluations/base", f"other={stores['other']}"]
    assert main(["compare", *runs, "--out", str(tmp_path / "made")]) == 0
    assert "Difference to base" in capsys.readouterr().out


def test_a_cell_that_is_not_there_is_refused_with_those_that_are(stores, tmp_path):
    file = write_cells(tmp_path / "cells.jsonl", stores)
    with pytest.raises(ValueError, match="has no cell 'base' of plain attempts; there are evaluations/base, evaluat"):
        read_cell("base", f"{file}@base")


def test_an_evaluation_without_a_scored_attempt_makes_no_cell(tmp_path):
    with pytest.raises(ValueError, match="no scored attempt"):
        read_figures(write_store(tmp_path / "base", {"a": "??"}))
    with pytest.raises(ValueError, match="no evaluation in"):
        read_figures(tmp_path / "nothing")


def test_a_cell_from_given_histories_keeps_their_shares_and_no_tasks(tmp_path):
    source = write_source(tmp_path / "source", {"a": ["xy-", "z+"]})
    figures = read_figures(write_given(tmp_path / "given", source, {"x": ["z+", "x-"]}))
    assert figures["next_turn"][0] == 0.5 and figures["fresh"][0] == 1.0 and figures["beyond_fresh"][0] == -0.5
    assert "tasks" not in figures and figures["attempts_scored"] == 2


def test_a_file_may_have_an_at_sign(stores, tmp_path):
    file = write_cells(tmp_path / "you@home.jsonl", stores)
    assert read_cell("base", f"{file}@evaluations/base").results
    with pytest.raises(ValueError, match="base: there is no nowhere@2; expected the folder of an evaluation, or FILE@"):
        read_cell("base", "nowhere@2")


@pytest.mark.parametrize("line", ['{"cell": "a"', '{"name": "a"}', "3"])
def test_a_line_that_is_no_cell_is_named(tmp_path, line):
    (tmp_path / "cells.jsonl").write_text(f'{{"cell": "b"}}\n\n{line}\n')
    with pytest.raises(ValueError, match="line 3 is no cell of a comparison"):
        read_cell("base", f"{tmp_path / 'cells.jsonl'}@b")


def test_cells_of_trainings_and_of_earlier_versions_cannot_be_compared(tmp_path):
    (tmp_path / "cells.jsonl").write_text('{"cell": "a", "pass@1": 0.5}\n{"cell": "b", "tasks": {}}\n')
    with pytest.raises(ValueError, match="no cell 'b' of plain attempts"):
        read_cell("base", f"{tmp_path / 'cells.jsonl'}@b")
