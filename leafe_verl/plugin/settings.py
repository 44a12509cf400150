"""All settings under `leafe`: the algorithm's, and those of a run (schedule, collection, checkpoints, tracking).

    python -m leafe_verl.plugin.settings            # prints the reference of settings
    python -m leafe_verl.plugin.settings --write    # writes it into config/README.md

Without verl, so that the reference can be printed anywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from leafe_verl.core.settings import BEYOND, OURS, Section, Settings, Source, expected_values, section_models

if TYPE_CHECKING:
    from omegaconf import DictConfig

README = Path(__file__).parent / "config" / "README.md"
MARKER = "<!-- Written by `python -m leafe_verl.plugin.settings --write`; change the models instead. -->\n"


class ScheduleSettings(Section):
    """What a training step does, and how much is collected before training."""

    stages: Annotated[Literal["both", "explore", "distil"], OURS] = "both"
    """Both stages; stage 1 alone (`explore`: trees go to the store, nothing is trained); or stage 2 alone (`distil`:
    trees come from the store, and no inference server runs)."""
    collect: Annotated[Literal["batch", "all"], Source("ours; `all` is the paper's")] = "batch"
    """What is collected before it is distilled: `data.train_batch_size` tasks, again and again (`batch`), or every
    task, once (`all`: the paper's two stages, with `actor.ppo_epochs` of 2 to 3)."""


class CollectionSettings(Section):
    """How trees are collected and kept."""

    store: Annotated[str | None, OURS] = None
    """Folder that keeps every finished tree; `leafe.yaml` and `early_experience.yaml` set it to `checkpoints/trees` in
    RUN_DIR. A killed run finds its own trees by `trainer.experiment_name`, the name of RUN_DIR, so that runs which
    share a store need different names. Stage 2 alone takes those of every run, and no run those of another tokenizer.
    null: trees are not kept, and a killed run collects again what it had since its last checkpoint."""
    share: Annotated[float, Field(gt=0, le=1), OURS] = 1.0
    """Share of a step's tasks to wait for. The trees of the other tasks are then cut short and used as they are."""
    worker_memory: Annotated[int, Field(ge=1), OURS] = 16384
    """MiB that a rollout worker may hold when a step begins. One that holds more, or more than half of the file
    descriptors that it may open, is replaced, since an environment leaks in it."""


class CurriculumSettings(Section):
    """Whether tasks that nobody ever solves, or that everybody solves, are sampled less. By default every pass over the
    task files holds every task."""

    floor: Annotated[float | None, Field(gt=0, le=1), BEYOND] = None
    """Smallest share of the passes that hold a task, such as 0.1, so that none is ever left out for good. null: every
    pass holds every task."""
    trees: Annotated[int, Field(ge=1), BEYOND] = 4
    """Newest trees of a task in `leafe.collection.store` that say how often it is solved. Older ones are of a policy
    that knew less."""


class MemorySettings(Section):
    """The estimate of memory that a run prints before it starts."""

    refuse: Annotated[bool, OURS] = True
    """Whether a run is refused that would not fit: without a GPU one that is estimated to need more memory than is
    free, which Ray would kill later, or more of /dev/shm; with GPUs one whose weights, gradients and moments exceed
    them; on any machine one with no room for a checkpoint."""


class CheckpointSettings(Section):
    """When a training run saves and validates, and which checkpoints stay."""

    every_minutes: Annotated[float | None, Field(gt=0), OURS] = 30.0
    """Minutes after the last checkpoint at which the next step saves another. null: time saves nothing."""
    keep: Annotated[int | None, Field(ge=1), OURS] = 2
    """Number of newest checkpoints that stay, beside the best one and those of an explicit `trainer.save_freq`. null:
    all stay. `trainer.max_actor_ckpt_to_keep` takes its place, and then counts all."""
    metric: Annotated[str | None, Field(min_length=1), OURS] = "val-core/*/pass@1"
    """Validation metric that decides which checkpoint is the best, or a pattern whose matches are averaged; higher is
    better. null: none is named, and validation saves nothing."""
    validations: Annotated[int, Field(ge=1), OURS] = 10
    """Maximum number of validations in a run where `trainer.test_freq` is null, without the one before training. At
    least two steps lie between them."""


class TrackingSettings(Section):
    """What W&B and TensorBoard show, if `trainer.logger` names them."""

    branches: Annotated[int, Field(ge=0), OURS] = 4
    """Number of a step's most telling branches that are logged as a table with pictures of their trees, at most one
    branch of each tree. 0: none."""


class EvaluationSettings(Section):
    """Set by `leafe-verl evaluate`; training leaves them as they are."""

    loop: Annotated[Literal["episode", "explore"], OURS] = "episode"
    """What is played for a held-out task: plain attempts, or exploration trees."""
    store: Annotated[str | None, OURS] = None
    """Folder that keeps every attempt. null: attempts are scored and not kept."""
    given: Annotated[str | None, OURS] = None
    """Folder of failed histories that plain attempts go on from. null: they begin at the task's start."""

    @model_validator(mode="after")
    def _trees_need_a_store(self) -> Self:
        if self.loop == "explore" and self.store is None:
            raise ValueError("leafe.evaluation.loop is 'explore'; expected a folder in leafe.evaluation.store")
        return self


class RunSettings(Settings):
    """Everything under `leafe`."""

    schedule: ScheduleSettings = ScheduleSettings()
    collection: Annotated[CollectionSettings, Field(validate_default=True)] = CollectionSettings()
    curriculum: CurriculumSettings = CurriculumSettings()
    memory: MemorySettings = MemorySettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    tracking: TrackingSettings = TrackingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        """Build from the whole configuration of a run. Raises SettingsError as `from_mapping` does."""
        from omegaconf import OmegaConf

        values: Any = OmegaConf.to_container(config.leafe, resolve=True)
        return cls.from_mapping(values)

    @field_validator("collection")
    @classmethod
    def _a_stage_alone_needs_a_store(cls, collection: CollectionSettings, others: ValidationInfo) -> CollectionSettings:
        schedule = others.data.get("schedule")  # absent if it is invalid itself
        if schedule and schedule.stages != "both" and not collection.store:
            raise ValueError(
                f"leafe.schedule.stages is {schedule.stages!r}; expected a folder in leafe.collection.store"
            )
        return collection

    @model_validator(mode="after")
    def _a_curriculum_needs_passes_over_the_tasks(self) -> Self:
        schedule, floor = self.schedule, self.curriculum.floor
        if floor is not None and (schedule.collect == "all" or schedule.stages == "distil"):
            raise ValueError(
                f"leafe.curriculum.floor is {floor:g}, with leafe.schedule.collect {schedule.collect!r} and stages "
                f"{schedule.stages!r}; expected collect=batch and stages=both or explore, or "
                "leafe.curriculum.floor=null: where every task is taken once, none can be sampled less"
            )
        return self


def reference() -> str:
    """Return the reference of settings as Markdown: a table for each section, without those that are not the user's."""
    sections: dict[str, type[Section]] = {"": RunSettings, **section_models(RunSettings)}
    del sections["evaluation"]
    return "\n".join(line for name, section in sections.items() for line in _table(name, section))


def _table(name: str, section: type[Section]) -> Iterator[str]:
    prefix = f"leafe.{name}." if name else "leafe."
    yield f"### `{prefix.removesuffix('.')}`\n"
    yield f"{section.__doc__}\n"
    yield "| setting | default | values | from | what it is |"
    yield "| --- | --- | --- | --- | --- |"
    inner = section_models(section)
    for key, field in section.model_fields.items():
        if key not in inner:
            cells = (f"`{prefix}{key}`", f"`{_default(field)}`", _values(field), _source(field), _description(field))
            yield f"| {' | '.join(cells)} |"
    yield ""


def _default(field: FieldInfo) -> str:
    return f"{field.default:g}" if isinstance(field.default, float) else json.dumps(field.default).strip('"')


def _values(field: FieldInfo) -> str:
    return expected_values(field).removeprefix("one of ")


def _source(field: FieldInfo) -> str:
    return next(each.text for each in field.metadata if isinstance(each, Source))


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def main(arguments: list[str]) -> None:
    if arguments == ["--write"]:
        by_hand = README.read_text(encoding="utf-8").partition(MARKER)[0]
        README.write_text(by_hand + MARKER + "\n" + reference(), encoding="utf-8")
    elif not arguments:
        print(reference())
    else:
        raise SystemExit(f"leafe_verl.plugin.settings got {' '.join(arguments)}; expected --write or nothing")


if __name__ == "__main__":
    main(sys.argv[1:])
