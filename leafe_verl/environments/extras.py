"""Optional packages that an environment needs: a missing one is refused with the command that installs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def require_extra(name: str, packages: Mapping[str, str]) -> None:
    """Raise ModuleNotFoundError, which names the extra `name`, if a module is missing.

    `packages`: module to the package that has it.
    """
    if missing := [package for module, package in packages.items() if importlib.util.find_spec(module) is None]:
        raise ModuleNotFoundError(f"{name} needs {' and '.join(missing)}; fix it with: pip install leafe-verl[{name}]")
