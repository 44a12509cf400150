"""Settings of checkpoints and of validation during training, `leafe.checkpoints.*`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CheckpointSettings(BaseModel):
    """When a training run saves and validates, and which checkpoints stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_minutes: float | None = Field(
        default=30,
        gt=0,
        description="Minutes after the last checkpoint at which the next step saves one; null: never by time (ours).",
    )
    keep: int | None = Field(
        default=2,
        ge=1,
        description="Newest checkpoints that stay, beside the best one and those of an explicit trainer.save_freq; "
        "null: all stay. trainer.max_actor_ckpt_to_keep takes its place, and then counts all (ours).",
    )
    metric: str | None = Field(
        default="val-core/*/pass@1",
        min_length=1,
        description="Validation metric, or a pattern whose matches are averaged, that decides which checkpoint is the "
        "best; more is better. null: none is named, and validation saves nothing (ours).",
    )
    validations: int = Field(
        default=10,
        ge=1,
        description="Validations in a run at most, the one before training not counted, where trainer.test_freq is "
        "null. At least two steps lie between them (ours).",
    )
