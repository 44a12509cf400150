"""The settings of a run, and the reference that is printed from them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from leafe_verl.core.settings import SettingsError, Source, section_models
from leafe_verl.plugin.settings import MARKER, README, RunSettings, reference

INVALID = {
    "schedule.stages": ["stage1", None],
    "schedule.collect": ["tasks", None],
    "collection.store": [3],
    "collection.share": [0, 1.1, None, float("nan")],
    "collection.worker_memory": [0, None],
    "tracking.branches": [-1, None, 1.5],
    "evaluation.loop": ["tree", None],
    "evaluation.store": [3],
    "evaluation.given": [3],
}


def problems(**values):
    with pytest.raises(SettingsError) as raised:
        RunSettings.from_mapping(values)
    return raised.value.problems


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in INVALID.items() for value in values])
def test_an_invalid_value_is_named_with_its_key(key, value):
    section, name = key.split(".")
    (problem,) = problems(**{section: {name: value}})
    assert problem.startswith(f"leafe.{key} is {value!r}; expected ")


@pytest.mark.parametrize("stages", ["explore", "distil"])
def test_a_stage_alone_needs_a_store(stages):
    said = f"leafe.schedule.stages is {stages!r}; expected a folder in leafe.collection.store"
    assert problems(schedule={"stages": stages}) == [said]
    assert problems(schedule={"stages": stages}, collection={"store": None}, seed=-1)[1:] == [said]
    RunSettings.from_mapping({"schedule": {"stages": stages}, "collection": {"store": "trees"}})


def test_an_evaluation_of_trees_needs_a_store():
    said = "leafe.evaluation.loop is 'explore'; expected a folder in leafe.evaluation.store"
    assert problems(evaluation={"loop": "explore"}) == [said]
    RunSettings.from_mapping({"evaluation": {"loop": "explore", "store": "trees"}})


def test_every_setting_is_described_and_says_where_it_comes_from():
    for section in section_models(RunSettings).values():
        for name, field in section.model_fields.items():
            assert field.description.endswith("."), name
            assert any(isinstance(each, Source) for each in field.metadata), name


def test_the_reference_in_the_readme_is_that_of_the_models():
    _, marker, written = README.read_text(encoding="utf-8").partition(MARKER)
    assert marker, f"{README} has no line {MARKER}"
    assert written == "\n" + reference(), "run `python -m leafe_verl.plugin.settings --write`"


def test_the_reference_names_the_users_settings_alone():
    told = reference()
    assert "| `leafe.seed` | `0` | an integer of at least 0 | ours |" in told
    assert "| `leafe.distillation.events` | `improved` | improved, every, success |" in told
    assert "leafe.evaluation" not in told


def test_the_reference_is_printed_without_verl():
    code = "import sys; from leafe_verl.plugin.settings import main; main([]); assert 'verl' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == reference().strip()
