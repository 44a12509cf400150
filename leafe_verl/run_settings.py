"""Reads from the configuration that a run keeps which examples it has drawn from its trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core import Settings
from leafe_verl.core.settings import DistillationSettings

CONFIGURATION = Path("hydra", ".hydra", "config.yaml")
"""Where a RUN_DIR has the configuration, as Hydra wrote it."""


def read_configuration(path: Path) -> Mapping[str, Any]:
    """Return the run's configuration as Hydra wrote it; empty if the file is missing or torn, or without a reader."""
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]  # comes with verl, by way of Hydra
    except ImportError:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class ExampleSettings:
    """What decides which examples are drawn from a tree."""

    settings: DistillationSettings
    seed: int
    note: str | None = None
    """Set if the run's own settings are not known."""


def read_example_settings(configuration: Mapping[str, Any]) -> ExampleSettings:
    """Return the run's own settings, or the defaults with a note that says so."""
    defaults = Settings()
    note = "The examples are those that the default settings choose: "
    if "leafe" not in configuration:
        return ExampleSettings(defaults.distillation, defaults.seed, f"{note}{CONFIGURATION} of the run is not there.")
    try:
        # Only these are read: a run of another version may have other settings that are unknown here.
        chosen = {
            name: configuration["leafe"][name] for name in ("distillation", "seed") if name in configuration["leafe"]
        }
        settings = Settings.from_mapping(chosen)
    except ValueError as error:
        return ExampleSettings(
            defaults.distillation, defaults.seed, f"{note}those of the run are of another version ({error})."
        )
    return ExampleSettings(settings.distillation, settings.seed)
