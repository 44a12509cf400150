"""The trackers of `trainer.logger` that show branches. Rollout builds branches for them, and training logs them."""

from __future__ import annotations

from omegaconf import DictConfig

TRACKERS = {"wandb", "tensorboard"}
"""Names in `trainer.logger` of the trackers that show branches."""


def tracks_branches(config: DictConfig) -> bool:
    """Return whether tree records carry a telling branch: the run has a tracker that shows them, and wants them."""
    chosen = config.trainer.logger
    return config.leafe.tracking.branches > 0 and bool(TRACKERS & ({chosen} if isinstance(chosen, str) else {*chosen}))
