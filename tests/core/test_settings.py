"""Settings: built from nested mappings, and every problem reported at once under the key that fixes it."""

from __future__ import annotations

import pytest

from leafe_verl.core import Settings
from leafe_verl.core.settings import OURS, PAPER, SettingsError, Source, expected_values, section_models

INVALID = {
    "leafe.seed": [-1, None, 0.5],
    "leafe.environment.name": [None, 3],
    "leafe.environment.horizon": [0, -1, 2.5, "4", True],
    "leafe.environment.step_timeout": [0, -1.0, None, "60", float("nan"), float("inf")],
    "leafe.environment.max_characters": [0, None],
    "leafe.environment.concurrency": [0, 1.5],
    "leafe.environment.several_answers": ["drop", None, True],
    "leafe.environment.options": [None, "processes=2"],
    "leafe.context.window": [-1, 1.5, "3"],
    "leafe.context.stride": [0, None, 1.5],
    "leafe.budget.attempts": [0, 2.5, None, float("inf"), True],
    "leafe.budget.depth": [-1, None, 0.5],
    "leafe.budget.environment_steps": [0, 3.5],
    "leafe.reflection.interval": [0, 2.0],
    "leafe.reflection.upon_repetition": ["yes", None, 1],
    "leafe.reflection.successes": ["no", None, 0],
    "leafe.reflection.rollback": ["root", None],
    "leafe.reflection.experience": ["yes", None, 1],
    "leafe.reflection.samples": [0, None],
    "leafe.reflection.branches": [0, None],
    "leafe.reflection.max_tokens": [0, None],
    "leafe.reflection.max_characters": [0, None],
    "leafe.reflection.temperature": [-0.1, "1", True],
    "leafe.reflection.grammar": ["false", None, 1],
    "leafe.reflection.scope": ["tree", None],
    "leafe.reflection.reads": ["both", None],
    "leafe.distillation.method": ["ace", None],
    "leafe.distillation.events": ["best", None],
    "leafe.distillation.events_per_task": [-1, None],
    "leafe.distillation.target": ["turn", None],
    "leafe.distillation.rehearsal_share": [-0.1, 1.1, None],
    "leafe.distillation.beta": [-1, None, float("nan")],
    "leafe.distillation.counterfactual_histories": ["unfailed", None],
    "leafe.distillation.loss_agg_mode": ["seq-mean", None],
    "leafe.distillation.rehearsal": ["turns", None],
    "leafe.distillation.recovery_targets": [-1, 0.5, None],
    "leafe.distillation.recovery_weight": [-1, None, float("inf")],
    "leafe.distillation.recovery_loss": ["dpo", None],
    "leafe.distillation.context_mask": [-0.1, 1.1, None],
    "leafe.distillation.hold_share": [-0.1, 1.1, None],
    "leafe.distillation.hold_weight": [-1, None],
    "leafe.distillation.hold_loss": ["dpo", None],
    "leafe.distillation.incomplete_actions": ["false", None],
    "leafe.distillation.thoughts": ["false", None],
    "leafe.distillation.world_model_epochs": [0, 1.5],
    "leafe.distillation.share_prefixes": ["false", None],
    "leafe.distillation.mix_trees": ["false", None],
    "leafe.distillation.loss": ["ipo", None],
    "leafe.distillation.kl_top_k": [0, 2.5, None],
    "leafe.distillation.temperature": [0, -1, None, "hot"],
    "leafe.distillation.kl_share": [0, 1.5, None],
    "leafe.distillation.dpo_beta": [0, None],
    "leafe.distillation.control": ["cf", True],
    "leafe.playbook.path": [3],
    "leafe.playbook.max_characters": [0, None],
    "leafe.playbook.lessons": [0, None],
    "leafe.generation.max_tokens": [0, None],
    "leafe.generation.thought_tokens": [0, "many"],
    "leafe.generation.earlier_thoughts": ["template", True],
    "leafe.generation.stop_at": ["block", True],
    "leafe.generation.timeout": [0, None],
    "leafe.generation.chat_family": [3],
}
OPTIONAL = [
    "environment.horizon",
    "environment.concurrency",
    "context.window",
    "budget.environment_steps",
    "reflection.interval",
    "reflection.temperature",
    "distillation.control",
    "playbook.path",
    "generation.stop_at",
    "generation.thought_tokens",
    "generation.earlier_thoughts",
    "generation.chat_family",
]


def nested(key, value):
    """leafe.budget.depth, 1 -> {"budget": {"depth": 1}}"""
    for name in reversed(key.removeprefix("leafe.").split(".")):
        value = {name: value}
    return value


def problems(values):
    with pytest.raises(SettingsError) as raised:
        Settings.from_mapping(values)
    assert str(raised.value).splitlines() == raised.value.problems
    return raised.value.problems


def fields():
    """Every setting by its key."""
    sections = {"": Settings, **{f"{name}.": section for name, section in section_models(Settings).items()}}
    return {
        f"leafe.{prefix}{name}": field
        for prefix, section in sections.items()
        for name, field in section.model_fields.items()
        if name not in section_models(section)
    }


def test_the_defaults_are_those_of_the_design():
    settings = Settings.from_mapping({})
    assert settings == Settings()
    assert (settings.budget.attempts, settings.budget.depth, settings.budget.environment_steps) == (8, 2, None)
    reflection = settings.reflection
    assert (reflection.interval, reflection.branches, reflection.scope) == (None, 1, "attempt")
    distillation = settings.distillation
    assert (distillation.events, distillation.events_per_task, distillation.target) == ("improved", 3, "action")
    assert (distillation.rehearsal_share, distillation.beta) == (0.2, 1.0)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in INVALID.items() for value in values])
def test_an_invalid_value_is_named_with_its_key(key, value):
    (problem,) = problems(nested(key, value))
    assert problem.startswith(f"{key} is {value!r}; expected ")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("leafe.seed", "an integer of at least 0"),
        ("leafe.environment.name", "text"),
        ("leafe.environment.horizon", "an integer of at least 1 or null"),
        ("leafe.environment.step_timeout", "a number above 0"),
        ("leafe.environment.options", "a mapping"),
        ("leafe.reflection.temperature", "a number of at least 0 or null"),
        ("leafe.reflection.grammar", "true or false"),
        ("leafe.distillation.events", "one of improved, every, success"),
        ("leafe.distillation.rehearsal_share", "a number from 0 to 1"),
    ],
)
def test_what_was_expected_is_said_in_words(key, expected):
    assert expected_values(fields()[key]) == expected
    assert problems(nested(key, ["no list"])) == [f"{key} is ['no list']; expected {expected}"]


def test_a_key_that_is_no_text_is_named():
    assert problems(nested("leafe.environment.options", {1: 2})) == [
        "leafe.environment.options has the key 1; expected keys that are texts"
    ]


@pytest.mark.parametrize("key", OPTIONAL)
def test_none_is_valid_where_it_means_something(key):
    Settings.from_mapping(nested(key, None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("budget.depth", 0),
        ("distillation.events_per_task", 0),
        ("distillation.rehearsal_share", 0),
        ("distillation.rehearsal_share", 1),
        ("distillation.beta", 0),
        ("distillation.context_mask", 1),
        ("distillation.hold_share", 1),
        ("reflection.temperature", 0),
    ],
)
def test_the_bounds_themselves_are_valid(key, value):
    Settings.from_mapping(nested(key, value))


def test_all_problems_are_reported_at_once():
    values = {"budgets": {}, "context": {"widow": 2}}
    for key, (value, *_) in INVALID.items():
        section, _, name = key.removeprefix("leafe.").rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    named = [problem.split(" is ")[0] for problem in problems(values)]
    assert sorted(named) == sorted([*INVALID, "leafe.budgets", "leafe.context.widow"])


def test_every_setting_is_checked_described_and_says_where_it_comes_from():
    assert set(fields()) == set(INVALID)
    for field in fields().values():
        assert field.description.endswith(".")
        assert any(isinstance(each, Source) for each in field.metadata)
    assert PAPER in fields()["leafe.distillation.rehearsal_share"].metadata
    assert OURS in fields()["leafe.distillation.beta"].metadata


def test_an_unknown_key_is_named_with_the_keys_that_there_are():
    assert problems({"budget": {"atempts": 4, "depth": 1}, "reflection": {"k": 5}}) == [
        "leafe.budget.atempts is not a setting (did you mean attempts?); "
        "expected one of attempts, depth, environment_steps",
        "leafe.reflection.k is not a setting; expected one of interval, upon_repetition, successes, rollback, "
        "experience, samples, branches, max_tokens, max_characters, temperature, grammar, scope, reads",
    ]
    (problem,) = problems({"budgets": {}})
    assert problem.startswith("leafe.budgets is not a setting (did you mean budget?); expected one of seed, environ")


def test_what_is_not_given_keeps_its_default():
    settings = Settings.from_mapping({"seed": 3, "budget": {"depth": 1}, "reflection": None})
    budget = Settings().budget.model_copy(update={"depth": 1})
    assert settings == Settings().model_copy(update={"seed": 3, "budget": budget})


@pytest.mark.parametrize("value", [8, "attempts=8", [8], True])
def test_a_section_without_keys_is_refused(value):
    (problem,) = problems({"budget": value})
    assert problem == f"leafe.budget is {value!r}; expected keys below it, such as leafe.budget.attempts"
