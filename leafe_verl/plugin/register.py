"""Entry point of group `verl.plugins`: what verl loads in every process of a run.

verl swallows what a plugin raises while it loads (verl/__init__.py logs it at DEBUG level), so little happens here;
`leafe-verl check` loads it again inside a Ray worker and shows what came of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_VERLS_TRAINER = "verl.trainer.ppo.v1.trainer_sync"
_OUR_TRAINERS = tuple(f"leafe_verl.plugin.training.{mode}_trainer" for mode in ("grpo", "leafe", "ace", "evaluation"))


class _RegisterTrainers(MetaPathFinder):
    """Registers our trainer modes as soon as verl's own trainer is imported, and loudly.

    Importing the trainers here would do as well, but costs seconds in each of a run's many processes.
    """

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _VERLS_TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            _import_trainers()

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def _import_trainers() -> None:
    for name in _OUR_TRAINERS:
        importlib.import_module(name)


def _register() -> None:
    from leafe_verl.console.marks import mark_warnings
    from leafe_verl.plugin.cpu import platform, vllm_build
    from leafe_verl.plugin.resolvers import register_resolvers

    platform.select_platform()
    register_resolvers()
    vllm_build.name_distribution()
    mark_warnings()
    if _VERLS_TRAINER in sys.modules:
        _import_trainers()
    else:
        sys.meta_path.insert(0, _RegisterTrainers())


_register()
