"""The algorithm's settings: every choice the paper leaves open has a name, a default and a check here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVENTS = ("improved", "every", "success")
TARGETS = ("action", "suffix")
SCOPES = ("attempt", "step")
LOOPS = ("episode", "explore")
ROLLBACKS = ("step", "start")
METHODS = ("leafe", "early_experience")
STAGES = ("both", "explore", "distil")
COLLECTS = ("batch", "all")


@dataclass(frozen=True)
class EnvironmentSettings:
    name: str = "mbpp"
    """Registered name; a task that names its own environment overrides it."""
    horizon: int | None = None
    """Steps of an attempt, T. None: the environment's own."""
    step_timeout: float = 60.0
    """Seconds one reset, step or restore may take; beyond, the attempt ends as an EnvironmentFailure."""
    max_characters: int = 1_000_000
    """Length of an observation; beyond, the attempt ends as an EnvironmentFlood."""
    concurrency: int | None = None
    """Environment calls at once in one rollout worker. None: the number of cores."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""

    def problems(self) -> list[str]:
        return [
            *_count("environment.horizon", self.horizon, 1, optional=True),
            *_positive("environment.step_timeout", self.step_timeout),
            *_count("environment.max_characters", self.max_characters, 1),
            *_count("environment.concurrency", self.concurrency, 1, optional=True),
        ]


@dataclass(frozen=True)
class ContextSettings:
    """What a prompt holds of the steps before it; see context.py."""

    window: int | None = None
    """Last steps that stand in the prompt as they were; those before them, in a running summary. None: all stand."""
    stride: int = 1
    """Steps by which the window moves on. With more than 1 it holds up to `window + stride - 1` steps, and as many
    prompts in a row share their beginning: fewer and longer training sequences, and a prefix cache that holds."""
    line_characters: int = 160
    """Length of one step in the summary: its action and the first line of its feedback, half of it each."""
    summary_characters: int = 3000
    """Length of the summary; the lines of many steps are shorter."""

    def problems(self) -> list[str]:
        return [
            *_count("context.window", self.window, 0, optional=True),
            *_count("context.stride", self.stride, 1),
            *_count("context.line_characters", self.line_characters, 1),
            *_count("context.summary_characters", self.summary_characters, 1),
        ]


@dataclass(frozen=True)
class BudgetSettings:
    attempts: int = 8
    """Attempts of one task, roots included."""
    depth: int = 2
    """Maximum depth of a branch; roots have depth 0."""
    environment_steps: int | None = None
    """Environment steps of one task, replayed ones not counted. None: attempts and horizon bound them."""

    def problems(self) -> list[str]:
        return [
            *_count("budget.attempts", self.attempts, 1),
            *_count("budget.depth", self.depth, 0),
            *_count("budget.environment_steps", self.environment_steps, 1, optional=True),
        ]


@dataclass(frozen=True)
class ReflectionSettings:
    interval: int | None = None
    """K: reflect every K steps as well. None: upon failure alone."""
    rollback: str = "step"
    """Where a branch begins: at the `step` that its reflection names, or at the `start` (iterative refinement)."""
    experience: bool = True
    """Whether a branch's prompt holds the experience; without it, a branch is a mere second try."""
    samples: int = 1
    """Independent reflections on one failed attempt. Two or more also measure pivot agreement."""
    branches: int = 1
    """Branches grown from one reflection."""
    max_tokens: int = 192
    """Token limit of a reflection."""
    max_characters: int = 400
    """Length of an experience; longer ones are shortened. Keep it within `max_tokens`."""
    temperature: float | None = None
    """None: the rollout's."""
    grammar: bool = True
    """Decode reflections under a JSON schema where the engine can."""
    scope: str = "attempt"
    """How long the experience stays in a branch's prompt: the rest of the `attempt`, or one `step`."""

    def problems(self) -> list[str]:
        return [
            *_count("reflection.interval", self.interval, 1, optional=True),
            *_one_of("reflection.rollback", self.rollback, ROLLBACKS),
            *_flag("reflection.experience", self.experience),
            *_count("reflection.samples", self.samples, 1),
            *_count("reflection.branches", self.branches, 1),
            *_count("reflection.max_tokens", self.max_tokens, 1),
            *_count("reflection.max_characters", self.max_characters, 1),
            *_at_least("reflection.temperature", self.temperature, 0, optional=True),
            *_flag("reflection.grammar", self.grammar),
            *_one_of("reflection.scope", self.scope, SCOPES),
        ]


@dataclass(frozen=True)
class DistillationSettings:
    method: str = "leafe"
    """What attempts become: LEAFE's examples, or those of `early_experience` (implicit world modelling: predict the
    observations of every attempt, then imitate the successful ones)."""
    events: str = "improved"
    """Which branching events are distilled: those whose branch `improved` on the attempt it left, `every` one,
    or those whose branch ended in `success`."""
    events_per_task: int = 3
    """Branching events sampled for one task."""
    target: str = "action"
    """Counterfactual target: the revised `action` alone, or the branch's whole `suffix`."""
    rehearsal_share: float = 0.2
    """Share of the successful attempts that are rehearsed, drawn at random."""
    beta: float = 1.0
    """Weight of the rehearsal loss: L = L_cf + beta * L_reh."""
    incomplete_actions: bool = False
    """Whether an action that the token limit cut may be a target."""
    world_model_epochs: int = 1
    """Times Early Experience trains on a step's observations before it imitates."""
    share_prefixes: bool = True
    """Whether what examples have in common at their beginnings is computed once: the same loss and gradients."""

    def problems(self) -> list[str]:
        share = self.rehearsal_share
        return [
            *_one_of("distillation.method", self.method, METHODS),
            *_one_of("distillation.events", self.events, EVENTS),
            *_count("distillation.events_per_task", self.events_per_task, 0),
            *_one_of("distillation.target", self.target, TARGETS),
            *_at_least("distillation.rehearsal_share", share, 0),
            *([f"leafe.distillation.rehearsal_share is {share}; expected at most 1"] if _above(share, 1) else []),
            *_at_least("distillation.beta", self.beta, 0),
            *_flag("distillation.incomplete_actions", self.incomplete_actions),
            *_count("distillation.world_model_epochs", self.world_model_epochs, 1),
            *_flag("distillation.share_prefixes", self.share_prefixes),
        ]


@dataclass(frozen=True)
class PlaybookSettings:
    """ACE's; see playbook.py."""

    path: str | None = None
    """File of the advice that stands in every system prompt, written by ACE's training. None: no advice."""
    max_characters: int = 2000
    """Length of the advice in the prompt."""
    lessons: int = 2
    """New pieces of advice from one attempt."""
    lesson_characters: int = 160
    """Length of one piece."""

    def problems(self) -> list[str]:
        return [
            *_count("playbook.max_characters", self.max_characters, 1),
            *_count("playbook.lessons", self.lessons, 1),
            *_count("playbook.lesson_characters", self.lesson_characters, 1),
        ]


@dataclass(frozen=True)
class GenerationSettings:
    max_tokens: int = 512
    """Token limit of one assistant turn."""
    timeout: float = 600.0
    """Seconds one turn may take; beyond, the attempt ends as a PolicyFailure."""
    chat_family: str | None = None
    """Family of verl's continuous-token builder, such as `qwen`. None: inferred from the model's type."""

    def problems(self) -> list[str]:
        return [
            *_count("generation.max_tokens", self.max_tokens, 1),
            *_positive("generation.timeout", self.timeout),
        ]


@dataclass(frozen=True)
class EvaluationSettings:
    """What `leafe-verl evaluate` sets; validation during training leaves both as they are."""

    loop: str = "episode"
    """What is played for a held-out task: plain attempts (`episode`), or exploration trees (`explore`)."""
    store: str | None = None
    """Folder that keeps every attempt. None: attempts are scored and forgotten."""

    def problems(self) -> list[str]:
        unkept = self.loop == "explore" and self.store is None
        return [
            *_one_of("evaluation.loop", self.loop, LOOPS),
            *(["leafe.evaluation.loop is 'explore'; expected a folder in leafe.evaluation.store"] if unkept else []),
        ]


@dataclass(frozen=True)
class ScheduleSettings:
    stages: str = "both"
    """What a training step does: `both` stages, stage 1 alone (`explore`: trees go to the store, nothing is trained),
    or stage 2 alone (`distil`: trees come from the store, and no inference server runs)."""
    collect: str = "batch"
    """What is collected before it is distilled: a `batch` of data.train_batch_size tasks, again and again, or `all`
    tasks, once (the paper's two stages)."""

    def problems(self) -> list[str]:
        return [
            *_one_of("schedule.stages", self.stages, STAGES),
            *_one_of("schedule.collect", self.collect, COLLECTS),
        ]


@dataclass(frozen=True)
class CollectionSettings:
    store: str | None = None
    """Folder that keeps every finished tree, as leafe_verl/trees describes. None: trees are forgotten, and
    what a killed run had collected since its last checkpoint is collected again."""
    share: float = 1.0
    """Share of a step's tasks whose end is waited for; then the other trees are cut short and used as they are."""
    worker_memory: int = 16384
    """MiB that a rollout worker may hold when a step begins; one that holds more, or half the descriptors that the
    system allows it, is replaced: an environment leaks in it."""

    def problems(self) -> list[str]:
        return [
            *_positive("collection.share", self.share),
            *_count("collection.worker_memory", self.worker_memory, 1),
            *([f"leafe.collection.share is {self.share}; expected at most 1"] if _above(self.share, 1) else []),
        ]


@dataclass(frozen=True)
class TrackingSettings:
    branches: int = 4
    """Most telling branches of a step that go to W&B and TensorBoard with the pictures of their trees, at most one of
    each tree. 0: none."""

    def problems(self) -> list[str]:
        return _count("tracking.branches", self.branches, 0)


@dataclass(frozen=True)
class Settings:
    """Everything under `leafe.*`; see plugin/config/leafe_settings.yaml for the same with its sources."""

    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    context: ContextSettings = field(default_factory=ContextSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    reflection: ReflectionSettings = field(default_factory=ReflectionSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    playbook: PlaybookSettings = field(default_factory=PlaybookSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    collection: CollectionSettings = field(default_factory=CollectionSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    seed: int = 0
    """Seed of the environments and of the choice of examples."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Build from nested mappings. Raises ValueError naming every unknown key and what is no section."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls) if f.name != "seed"}
        unknown = [f"leafe.{key}" for key in values if key not in sections and key != "seed"]
        built: dict[str, Any] = {"seed": values["seed"]} if "seed" in values else {}
        wrong = [f"leafe.{name} is {given!r}" for name in sections if not _is_section(given := values.get(name))]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}; expected keys below it, as in leafe.budget.attempts=8")
        for name, section in sections.items():
            given = dict(values.get(name) or {})
            known = {f.name for f in dataclasses.fields(section)}  # type: ignore[arg-type]
            unknown += [f"leafe.{name}.{key}" for key in given if key not in known]
            built[name] = section(**{key: value for key, value in given.items() if key in known})  # type: ignore[operator]
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return cls(**built)

    def problems(self) -> list[str]:
        """Return every invalid value, each as: what came, what was expected, under which key."""
        sections = [getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "seed"]
        return [
            *(problem for section in sections for problem in section.problems()),
            *_count("seed", self.seed, 0),
            *self._unkept(),
        ]

    def _unkept(self) -> list[str]:
        stages = self.schedule.stages
        if stages not in ("explore", "distil") or self.collection.store:
            return []
        return [f"leafe.schedule.stages is {stages!r}; expected a folder in leafe.collection.store"]


def _is_section(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(key: str, value: Any, minimum: int, *, optional: bool = False) -> list[str]:
    if (value is None and optional) or (isinstance(value, int) and _is_number(value) and value >= minimum):
        return []
    return [f"leafe.{key} is {value!r}; expected an integer of at least {minimum}{' or null' if optional else ''}"]


def _flag(key: str, value: Any) -> list[str]:
    return [] if isinstance(value, bool) else [f"leafe.{key} is {value!r}; expected true or false"]


def _above(value: Any, limit: float) -> bool:
    return _is_number(value) and value > limit


def _at_least(key: str, value: Any, minimum: float, *, optional: bool = False) -> list[str]:
    if (value is None and optional) or (_is_number(value) and value >= minimum):
        return []
    return [f"leafe.{key} is {value!r}; expected a number of at least {minimum}{' or null' if optional else ''}"]


def _positive(key: str, value: Any) -> list[str]:
    return [] if _above(value, 0) else [f"leafe.{key} is {value!r}; expected a number above 0"]


def _one_of(key: str, value: Any, choices: tuple[str, ...]) -> list[str]:
    return [] if value in choices else [f"leafe.{key} is {value!r}; expected one of {', '.join(choices)}"]
