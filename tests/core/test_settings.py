"""Settings: built from nested mappings, and every problem reported at once under the key that mends it."""

from __future__ import annotations

import dataclasses

import pytest

from leafe_verl.core import Settings

INVALID = {
    "leafe.environment.horizon": [0, -1, 2.5, "4", True],
    "leafe.environment.step_timeout": [0, -1.0, None, "60", float("nan")],
    "leafe.environment.max_characters": [0, None],
    "leafe.environment.concurrency": [0, 1.5],
    "leafe.context.window": [-1, 1.5, "3"],
    "leafe.context.stride": [0, None, 1.5],
    "leafe.context.line_characters": [0, None],
    "leafe.context.summary_characters": [0, None],
    "leafe.budget.attempts": [0, 2.5, None, float("inf"), True],
    "leafe.budget.depth": [-1, None, 0.5],
    "leafe.budget.environment_steps": [0, 3.5],
    "leafe.reflection.interval": [0, 2.0],
    "leafe.reflection.rollback": ["root", None],
    "leafe.reflection.experience": ["yes", None, 1],
    "leafe.reflection.samples": [0, None],
    "leafe.reflection.branches": [0, None],
    "leafe.reflection.max_tokens": [0, None],
    "leafe.reflection.max_characters": [0, None],
    "leafe.reflection.temperature": [-0.1, "1"],
    "leafe.reflection.grammar": ["false", None, 1],
    "leafe.reflection.scope": ["tree", None],
    "leafe.distillation.method": ["ace", None],
    "leafe.distillation.events": ["best", None],
    "leafe.distillation.events_per_task": [-1, None],
    "leafe.distillation.target": ["turn", None],
    "leafe.distillation.rehearsal_share": [-0.1, 1.1, None],
    "leafe.distillation.beta": [-1, None],
    "leafe.distillation.incomplete_actions": ["false", None],
    "leafe.distillation.world_model_epochs": [0, 1.5],
    "leafe.distillation.share_prefixes": ["false", None],
    "leafe.playbook.max_characters": [0, None],
    "leafe.playbook.lessons": [0, None],
    "leafe.playbook.lesson_characters": [0, None],
    "leafe.generation.max_tokens": [0, None],
    "leafe.generation.timeout": [0, None],
    "leafe.evaluation.loop": ["tree", None],
    "leafe.schedule.stages": ["stage1", None],
    "leafe.schedule.collect": ["tasks", None],
    "leafe.collection.share": [0, 1.1, None],
    "leafe.collection.worker_memory": [0, None],
    "leafe.tracking.branches": [-1, None, 1.5],
    "leafe.seed": [-1, None, 0.5],
}
OPTIONAL = ["environment.horizon", "environment.concurrency", "budget.environment_steps", "reflection.interval"]
OPTIONAL += ["reflection.temperature", "generation.chat_family"]


def nested(key, value):
    """leafe.budget.depth, 1 -> {"budget": {"depth": 1}}"""
    for name in reversed(key.removeprefix("leafe.").split(".")):
        value = {name: value}
    return value


def test_the_defaults_are_valid_and_those_of_the_design():
    settings = Settings()
    assert settings.problems() == []
    assert (settings.budget.attempts, settings.budget.depth, settings.budget.environment_steps) == (8, 2, None)
    assert (settings.reflection.interval, settings.reflection.branches, settings.reflection.scope) == (
        None,
        1,
        "attempt",
    )
    distillation = settings.distillation
    assert (distillation.events, distillation.events_per_task, distillation.target) == ("improved", 3, "action")
    assert (distillation.rehearsal_share, distillation.beta) == (0.2, 1.0)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in INVALID.items() for value in values])
def test_an_invalid_value_is_named_with_its_key(key, value):
    (problem,) = Settings.from_mapping(nested(key, value)).problems()
    assert problem.startswith(f"{key} is ") and "expected" in problem
    assert str(value) in problem


@pytest.mark.parametrize("key", OPTIONAL)
def test_none_is_valid_where_it_means_something(key):
    assert Settings.from_mapping(nested(key, None)).problems() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("budget.depth", 0),
        ("distillation.events_per_task", 0),
        ("distillation.rehearsal_share", 0),
        ("distillation.rehearsal_share", 1),
        ("distillation.beta", 0),
        ("reflection.temperature", 0),
    ],
)
def test_the_bounds_themselves_are_valid(key, value):
    assert Settings.from_mapping(nested(key, value)).problems() == []


def test_all_problems_are_reported_at_once():
    values = {}
    for key, (value, *_) in INVALID.items():
        section, _, name = key.removeprefix("leafe.").rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    problems = Settings.from_mapping(values).problems()
    assert [problem.split(" is ")[0] for problem in problems] == list(INVALID)


def test_every_setting_is_checked_or_free_text():
    free = {"leafe.environment.name", "leafe.environment.options", "leafe.generation.chat_family"}
    free |= {"leafe.playbook.path", "leafe.evaluation.store", "leafe.collection.store"}
    sections = [f.name for f in dataclasses.fields(Settings) if f.name != "seed"]
    keys = {f"leafe.{s}.{f.name}" for s in sections for f in dataclasses.fields(getattr(Settings(), s))}
    assert keys | {"leafe.seed"} == set(INVALID) | free


def test_all_unknown_keys_are_reported_at_once():
    values = {"budgets": {}, "budget": {"attempt": 4, "depth": 1}, "reflection": {"k": 5}}
    with pytest.raises(ValueError, match="unknown settings") as raised:
        Settings.from_mapping(values)
    assert set(str(raised.value).removeprefix("unknown settings: ").split(", ")) == {
        "leafe.budgets",
        "leafe.budget.attempt",
        "leafe.reflection.k",
    }


def test_what_is_not_given_keeps_its_default():
    settings = Settings.from_mapping({"seed": 3, "budget": {"depth": 1}, "reflection": None})
    budget = dataclasses.replace(Settings().budget, depth=1)
    assert settings == dataclasses.replace(Settings(), seed=3, budget=budget)


@pytest.mark.parametrize("stages", ["explore", "distil"])
def test_a_stage_alone_needs_a_store(stages):
    settings = Settings.from_mapping({"schedule": {"stages": stages}})
    assert settings.problems() == [f"leafe.schedule.stages is {stages!r}; expected a folder in leafe.collection.store"]
    kept = Settings.from_mapping({"schedule": {"stages": stages}, "collection": {"store": "trees"}})
    assert kept.problems() == []


@pytest.mark.parametrize("value", [8, "attempts=8", [8], True])
def test_a_section_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"leafe\.budget is .*expected keys below it"):
        Settings.from_mapping({"budget": value})
