"""The algorithm's settings: one pydantic model for each section under `leafe`, each bound beside its field.

The text under a field describes it; all of them are printed into `leafe_verl/plugin/config/README.md`. How a run is
scheduled, stored and tracked is set by `leafe_verl.plugin.settings`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


class SettingsError(ValueError):
    """Some settings are invalid. The message has a line for each of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Source:
    """The origin of a default: the paper (arXiv 2603.16843), a baseline's paper, or us."""

    text: str


PAPER = Source("paper")
OURS = Source("ours")
BEYOND = Source("ours, beyond the paper")


class Section(BaseModel):
    """Settings that stand together. Values are neither converted (`"4"` is no integer) nor changed later."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class EnvironmentSettings(Section):
    """The environment that tasks are played in, and its limits."""

    name: Annotated[str, OURS] = "mbpp"
    """Name of a built-in or registered environment, or `package.module:Class` of your own. Its tasks may name other
    environments, which then play them: so one data set can hold tasks of several."""
    horizon: Annotated[int | None, Field(ge=1), Source("paper: 4 turns for coding")] = None
    """Maximum number of steps of an attempt (T in the paper). null: the environment's own horizon."""
    step_timeout: Annotated[float, Field(gt=0), OURS] = 60.0
    """Seconds that one reset, step or restore may take. A slower one ends the attempt as `environment_timeout`."""
    max_characters: Annotated[int, Field(ge=1), OURS] = 1_000_000
    """Maximum length of an observation. A longer one ends the attempt as `environment_flood`."""
    concurrency: Annotated[int | None, Field(ge=1), OURS] = None
    """Maximum number of concurrent environment calls in one rollout worker. null: a node's cores, divided among its
    rollout workers."""
    several_answers: Annotated[Literal["keep", "leave_out"], OURS] = "keep"
    """Tasks that are recognised to have several right answers, of which one is known, as CodeContests has many: right
    programs may count as wrong. They are counted in the log, and kept or left out of the task files."""
    options: Annotated[dict[str, Any], OURS] = {}
    """Keyword arguments of the environment's constructor."""


class ContextSettings(Section):
    """How much of an attempt the prompt shows verbatim. Each step is trained on with the prompt it was sampled from."""

    window: Annotated[int | None, Field(ge=0), OURS] = None
    """Number of latest steps shown verbatim; a running summary replaces the steps before them. null: all steps."""
    stride: Annotated[int, Field(ge=1), OURS] = 1
    """Number of steps by which the window moves. Above 1, the window holds up to `window + stride - 1` steps, and that
    many consecutive prompts share a prefix: fewer and longer training sequences, and more hits in the prefix cache."""


class BudgetSettings(Section):
    """How large the exploration tree of one task may become."""

    attempts: Annotated[int, Field(ge=1), OURS] = 8
    """Maximum number of attempts, the `rollout.n` root attempts included."""
    depth: Annotated[int, Field(ge=0), OURS] = 2
    """Maximum depth of a branch. Root attempts have depth 0, and 0 means that nothing branches."""
    environment_steps: Annotated[int | None, Field(ge=1), OURS] = None
    """Maximum number of environment steps, those of recovery targets included; replayed steps do not count. null:
    limited by attempts and horizon alone."""


class ReflectionSettings(Section):
    """When the policy reflects on an attempt, and what a branch makes of the reflection."""

    interval: Annotated[
        int | None, Field(ge=1), Source("ours; the paper reflects every K steps and upon failure, K is not published")
    ] = None
    """Number of steps between reflections (K in the paper). null: reflect upon failure only."""
    upon_repetition: Annotated[bool, BEYOND] = False
    """Whether exploring ends an attempt, and reflects on it, once a turn repeats an earlier failed turn of its path and
    fails again: the same executed code or command. It counts as an attempt that reached its horizon. Validation and
    plain attempts play every turn."""
    successes: Annotated[bool, PAPER] = True
    """Whether attempts that succeeded are reflected on every K steps too. Without it, or without an interval, root
    attempts that all succeed end a task."""
    rollback: Annotated[
        Literal["step", "start", "first_failed"],
        Source("paper; `start` is its baseline iterative refinement, and `first_failed` is ours, beyond the paper"),
    ] = "step"
    """Where a branch begins: at the step that the reflection names, at the start of the task, or at the first of the
    steps reflected on that has failed as the environment says (at the step that the reflection names, if none has)."""
    experience: Annotated[bool, Source("paper; false is an ablation")] = True
    """Whether a branch's prompt contains the experience. Without it, a branch is a second try."""
    samples: Annotated[int, Field(ge=1), OURS] = 1
    """Independent reflections on one failed attempt. Two or more also measure how often they name the same step."""
    branches: Annotated[int, Field(ge=1), OURS] = 1
    """Branches grown from one reflection."""
    max_tokens: Annotated[int, Field(ge=1), OURS] = 192
    """Token limit of a reflection."""
    max_characters: Annotated[int, Field(ge=1), OURS] = 400
    """Maximum length of an experience; longer ones are shortened. It should fit into `max_tokens`."""
    temperature: Annotated[float | None, Field(ge=0), OURS] = None
    """Sampling temperature of a reflection. null: that of the rollout."""
    grammar: Annotated[bool, OURS] = True
    """Whether reflections are decoded under a JSON schema. With vLLM it needs
    `actor_rollout_ref.rollout.skip_tokenizer_init=false`."""
    scope: Annotated[
        Literal["attempt", "step"], Source("ours; `step` is the paper's: the experience is there for a'_tau alone")
    ] = "attempt"
    """How long the experience stays in a branch's prompt: for the rest of the attempt, or for one step."""
    reads: Annotated[Literal["history", "prompt"], OURS] = "history"
    """What a reflection on a branch reads: the branch's history, without the experience; or the prompt that its last
    action was sampled from, with the experience where `scope` keeps it. The engine's prefix cache holds all of such a
    prompt, and of the history only what comes before the rollback. Once a window (`leafe.context.window`) has moved,
    the prompt is built anew, and both are the history."""


class DistillationSettings(Section):
    """Which training examples a finished tree gives, and how they are weighted: L = L_cf + beta * L_reh, and two terms
    beyond the paper: L_rec, of recovery targets, and L_hold. `preset` sets several of these at once; see above."""

    method: Annotated[
        Literal["leafe", "early_experience"], Source("paper; `early_experience` is a baseline, arXiv 2510.08558")
    ] = "leafe"
    """How attempts become examples: as in LEAFE, or as in Early Experience (implicit world modelling: predict the
    observations of every attempt, then imitate the successful attempts). Trees that LEAFE stored lack the last
    observation of each attempt as tokens, which Early Experience then does not train on."""
    events: Annotated[
        Literal["improved", "every", "success"], Source("ours; the paper can be read as `every` or as `success`")
    ] = "improved"
    """Which branches give counterfactual examples: those whose best return exceeds that of the attempt they left, all
    of them, or those that ended in success."""
    events_per_task: Annotated[int, Field(ge=0), PAPER] = 3
    """Maximum number of branches drawn for counterfactual examples from one tree. 0: rehearsal only."""
    target: Annotated[Literal["action", "suffix"], Source("paper, which can be read both ways")] = "action"
    """Counterfactual target: the revised action (a'_tau), or every action of the branch."""
    rehearsal_share: Annotated[float, Field(ge=0, le=1), PAPER] = 0.2
    """Share of the successful attempts that are rehearsed, drawn at random. 0: counterfactual examples only."""
    beta: Annotated[float, Field(ge=0), OURS] = 1.0
    """Weight of the rehearsal loss L_reh."""
    temperature: Annotated[float, Field(gt=0), BEYOND] = 1.0
    """Losses and teachers read softmax(logits / T), with T this temperature. At 1, targets that were sampled at a lower
    temperature sharpen the policy in every step, and Pass@k at large k suffers. verl's GRPO trains at the temperature
    of its rollouts."""
    loss_agg_mode: Annotated[
        Literal["term-mean", "token-mean"], Source("paper, as we read it; `token-mean` is ours, beyond the paper")
    ] = "term-mean"
    """How the terms of the loss are averaged over a mini-batch. `term-mean`: each over its own tokens, so that terms
    weigh the same whatever their numbers of tokens are. `token-mean`: all over all trained tokens, so that every token
    weighs the same; with `term-mean` the only example of its kind in a small mini-batch weighs as much as all others
    together, and the shorter it is, the more each of its tokens."""
    counterfactual_histories: Annotated[Literal["every", "failed"], Source("paper; `failed` is ours, beyond it")] = (
        "every"
    )
    """Which branches may give counterfactual examples by their history: all of them, or those whose history h_tau holds
    a failed turn. The others teach to answer well at once, not to recover."""
    rehearsal: Annotated[Literal["attempts", "at_once"], Source("paper; `at_once` is ours, beyond it")] = "attempts"
    """What L_reh rehearses: all actions of successful attempts; or root attempts that succeeded without a failed turn,
    which for code are first turns that were right. An action counts as often as it was sampled."""
    recovery_targets: Annotated[int, Field(ge=0), BEYOND] = 0
    """With `method=leafe`: maximum number of recovery targets of one tree. Each is an action that succeeded elsewhere
    in the tree, executed after a failed turn and kept if the environment confirms it. At most twice as many are
    executed. They count as environment steps, and `budget.environment_steps` keeps room for them. 0: none."""
    recovery_weight: Annotated[float, Field(ge=0), BEYOND] = 1.0
    """Weight of the loss of recovery targets."""
    recovery_loss: Annotated[Literal["nll", "kl"], BEYOND] = "nll"
    """Loss of a recovery target: -log pi of its tokens after the failed turn; or, at each of them, the KL divergence
    from the policy at the prompt that the action was sampled from, which holds no failed turn where it was a first
    turn. `kl` teaches how sure to be of each token, where `nll` teaches to be certain of all."""
    context_mask: Annotated[float, Field(ge=0, le=1), BEYOND] = 0.0
    """Share of the tokens of failed turns that a padding token replaces in the histories of recovery targets, so that
    small models do not copy what they see (CYCLE's past generation mask, arXiv 2403.18746)."""
    hold_share: Annotated[float, Field(ge=0, le=1), BEYOND] = 0.0
    """Share of the root attempts, drawn at random, whose actions up to the first failed turn hold the policy still,
    successful or not. The policy sampled them itself, so that their cross-entropy is, but for a constant, an unbiased
    estimate of the KL divergence from the policy that explored; no reference model is needed. Sampled at a
    temperature below `temperature`, they also sharpen the policy. 0: none."""
    hold_weight: Annotated[float, Field(ge=0), BEYOND] = 1.0
    """Weight of the loss that holds the policy still."""
    hold_loss: Annotated[Literal["nll", "kl"], BEYOND] = "nll"
    """Loss that holds the policy still: -log pi of the sampled actions; or, at each of their tokens, the KL divergence
    from the policy that the training step began with, as SCoRe has it on first turns (arXiv 2409.12917). The second
    begins with a gradient of zero, where the first has one that is zero on average alone, and so moves the policy by
    its noise. It costs one forward pass more, and no reference model."""
    incomplete_actions: Annotated[bool, OURS] = False
    """Whether an action that the token limit cut off may be a target."""
    thoughts: Annotated[bool, Source("ours; the paper's models do not think")] = True
    """Whether the thoughts before an answer are trained on, or the answer alone. Thoughts that were sampled with an
    experience in the prompt may speak of it."""
    world_model_epochs: Annotated[int, Field(ge=1), OURS] = 1
    """With `method=early_experience`: epochs over a step's observations before the successful attempts are imitated."""
    share_prefixes: Annotated[bool, OURS] = True
    """Whether a prefix that several examples share is computed once. Loss and gradients are the same either way."""
    mix_trees: Annotated[bool, OURS] = True
    """Whether a mini-batch draws its examples from all of the step's trees, as SFT does. False, and wherever
    actor_rollout_ref.actor.shuffle is false: it takes whole trees, which share more prefixes, so that a small one
    trains on one task alone."""
    loss: Annotated[
        Literal["nll", "dpo", "kl"],
        Source("paper; `dpo` is a control of ours, arXiv 2305.18290, and `kl` is ours, beyond the paper"),
    ] = "nll"
    """Loss of the branches that are distilled: -log pi of the target; or DPO, which prefers the revised action a'_tau
    to the failed action a_tau after the same history; or the KL divergence, on the tokens of a'_tau, from the policy
    that has the experience in its prompt to the policy that has not. The reference of DPO, and the teacher of `kl`, is
    the policy that the training step began with."""
    kl_top_k: Annotated[int, Field(ge=1), OURS] = 64
    """`kl`, in whichever loss: number of most probable tokens that the teacher is cut to, at each token of the action.
    The rest of its mass is divided among them; `actor/teacher_mass` says how much they had."""
    kl_share: Annotated[float, Field(gt=0, le=1), OURS] = 1.0
    """Share of the KL divergence in `loss=kl` and `recovery_loss=kl`; -log pi of the target has the rest. 0.5: both."""
    dpo_beta: Annotated[float, Field(gt=0), Source("DPO, arXiv 2305.18290")] = 0.1
    """How strongly DPO holds the policy to its reference (beta in its paper)."""
    control: Annotated[Literal["rehearsal"] | None, OURS] = None
    """`rehearsal`: the control with matched volume. A step trains on its successful attempts alone, those that
    `rehearsal` names, each as often as the others, with as many trained tokens and optimiser steps as the examples of
    LEAFE that they replace. null: none."""

    @model_validator(mode="after")
    def _controls_stand_alone(self) -> Self:
        if self.control and (self.method, self.loss) != ("leafe", "nll"):
            raise ValueError(
                f"leafe.distillation.control is {self.control!r}, with method {self.method!r} and loss {self.loss!r}; "
                "expected leafe.distillation.method=leafe and loss=nll, whose volume it matches"
            )
        return self

    @model_validator(mode="after")
    def _losses_of_one_action(self) -> Self:
        why = {"dpo": "a pair is made of two actions", "kl": "the teacher looks at a'_tau alone"}
        if self.loss in why and (self.method, self.target) != ("leafe", "action"):
            raise ValueError(
                f"leafe.distillation.loss is {self.loss!r}, with method {self.method!r} and target {self.target!r}; "
                f"expected leafe.distillation.method=leafe and target=action, since {why[self.loss]}"
            )
        return self

    @model_validator(mode="after")
    def _teachers_read_prefix_trees(self) -> Self:
        if self.kl_losses and (self.loss == "dpo" or not self.share_prefixes):
            raise ValueError(
                f"leafe.distillation.{self.kl_losses[0]} is 'kl', with loss {self.loss!r} and share_prefixes "
                f"{self.share_prefixes!r}; expected a loss other than dpo and leafe.distillation.share_prefixes=true, "
                "since the teacher's logits come from prefix trees, which DPO does not have, or "
                f"leafe.distillation.{self.kl_losses[0]}=nll"
            )
        return self

    @property
    def kl_losses(self) -> list[str]:
        """Names of the losses that are `kl` and have examples."""
        used = {"loss": True, "recovery_loss": self.max_recovery_targets > 0, "hold_loss": self.hold_share > 0}
        return [name for name, has in used.items() if has and getattr(self, name) == "kl"]

    @property
    def max_recovery_targets(self) -> int:
        """Maximum number of recovery targets of one task; 0 for other methods than LEAFE."""
        return self.recovery_targets if self.method == "leafe" else 0


class PlaybookSettings(Section):
    """The playbook of the baseline ACE (arXiv 2510.04618): advice that is part of every system prompt."""

    path: Annotated[str | None, Source("ACE")] = None
    """File of the advice, which `recipes/ace_mbpp.sh` writes and any run can read. null: no advice."""
    max_characters: Annotated[int, Field(ge=1), OURS] = 2000
    """Maximum length of all advice in the prompt."""
    lessons: Annotated[int, Field(ge=1), OURS] = 2
    """Maximum number of new pieces of advice from one attempt."""


class GenerationSettings(Section):
    """How the policy samples one assistant turn."""

    max_tokens: Annotated[int, Field(ge=1), OURS] = 512
    """Token limit of one turn, or of the answer in it if `thought_tokens` is set."""
    thought_tokens: Annotated[int | None, Field(ge=1), OURS] = None
    """Token limit of the thoughts before an answer, as `<think> ... </think>`. A longer thought is closed there, by
    tokens that are never trained on, and the answer is sampled behind it. null: thoughts count towards `max_tokens`.
    """
    earlier_thoughts: Annotated[Literal["keep", "drop"] | None, OURS] = None
    """Whether prompts hold the thoughts of earlier turns. With `drop`, every turn of an attempt is a training sequence
    of its own, since the next prompt does not continue it. null: as the model's chat template renders earlier turns."""
    stop_at: Annotated[Literal["fence"] | None, Source("ours; null is the paper's")] = "fence"
    """Where an action is over although the model may go on. `fence`: if answers are code, behind the closing fence of
    the first block that compiles, outside thoughts; an end-of-turn token is added, which SFT trains on and GRPO does
    not. null: nowhere."""
    timeout: Annotated[float, Field(gt=0), OURS] = 600.0
    """Seconds that one turn may take. A slower one ends the attempt as `policy_timeout`. Time does not begin before the
    engines have room for the turn (`rollout.max_num_seqs`)."""
    chat_family: Annotated[str | None, OURS] = None
    """Family of verl's continuous-token builder, such as `qwen`, or `template` for ours, which appends turns as the
    chat template renders them. null: verl's for the model's type or for ChatML, if it appends the template's tokens,
    else `template`."""


class Settings(Section):
    """The algorithm's settings, under `leafe`."""

    seed: Annotated[int, Field(ge=0), OURS] = 0
    """Seed of the environments and of the choice of examples."""
    environment: EnvironmentSettings = EnvironmentSettings()
    context: ContextSettings = ContextSettings()
    budget: BudgetSettings = BudgetSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    distillation: DistillationSettings = DistillationSettings()
    playbook: PlaybookSettings = PlaybookSettings()
    generation: GenerationSettings = GenerationSettings()

    @property
    def exploration_budget(self) -> BudgetSettings:
        """The budget without the environment steps that are kept for recovery targets."""
        if self.budget.environment_steps is None:
            return self.budget
        steps = self.budget.environment_steps - self.distillation.max_recovery_targets
        return self.budget.model_copy(update={"environment_steps": steps})

    @model_validator(mode="after")
    def _recovery_targets_leave_steps_to_explore(self) -> Self:
        steps, kept = self.budget.environment_steps, self.distillation.max_recovery_targets
        if steps is not None and steps <= kept:
            raise ValueError(
                f"leafe.budget.environment_steps is {steps}; expected more than the {kept} that "
                "leafe.distillation.recovery_targets keeps for itself"
            )
        return self

    @model_validator(mode="after")
    def _a_teacher_has_the_experience(self) -> Self:
        if self.distillation.loss == "kl" and not self.reflection.experience:
            raise ValueError(
                "leafe.reflection.experience is False, with leafe.distillation.loss 'kl'; expected "
                "leafe.reflection.experience=true, since the teacher is the policy with the experience in its prompt"
            )
        return self

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested mappings. What is absent keeps its default, and so does a section that is None.

        Raises SettingsError naming every unknown key and every invalid value.
        """
        sections = section_models(cls)
        given = {key: value for key, value in values.items() if value is not None or key not in sections}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError([_problem(cls, each) for each in error.errors()]) from None


def section_models(model: type[Section]) -> dict[str, type[Section]]:
    """Return the fields of `model` that are sections themselves."""
    return {name: section for name, field in model.model_fields.items() if (section := _section(field))}


def expected_values(field: FieldInfo) -> str:
    """Describe the values that a setting takes, as in "an integer of at least 1 or null"."""
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    kind, *others = get_args(field.annotation) if is_union else (field.annotation,)
    if get_origin(kind) is Literal:
        described = f"one of {', '.join(get_args(kind))}"
    else:
        described = _KINDS[get_origin(kind) or kind] + _bounds(field)
    return f"{described} or null" if others else described


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "a mapping"}


def _bounds(field: FieldInfo) -> str:
    bounds = {
        name: getattr(each, name) for each in field.metadata for name in ("ge", "gt", "le") if hasattr(each, name)
    }
    match bounds:
        case {"ge": low, "le": high}:
            return f" from {low} to {high}"
        case {"gt": low, "le": high}:
            return f" above {low} and at most {high}"
        case {"ge": low}:
            return f" of at least {low}"
        case {"gt": low}:
            return f" above {low}"
    return ""


def _section(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _problem(model: type[Section], error: ErrorDetails) -> str:
    """Turn an error of pydantic into one line: what came, what was expected, under which key."""
    if error["type"] == "value_error":  # of a validator that compares settings, which says all of it
        return str(error["ctx"]["error"])
    key = "leafe"
    for name in map(str, error["loc"]):
        field = model.model_fields.get(name)
        if field is None:
            return _unknown(key, name, list(model.model_fields))
        key = f"{key}.{name}"
        section = _section(field)
        if section is None and error["loc"][-1] == "[key]":
            return f"{key} has the key {error['input']!r}; expected keys that are texts"
        if section is None:
            return f"{key} is {error['input']!r}; expected {expected_values(field)}"
        model = section
    return f"{key} is {error['input']!r}; expected keys below it, such as {key}.{next(iter(model.model_fields))}"


def _unknown(section: str, name: str, known: list[str]) -> str:
    guess = "".join(f" (did you mean {close}?)" for close in difflib.get_close_matches(name, known, 1))
    return f"{section}.{name} is not a setting{guess}; expected one of {', '.join(known)}"
