"""How firmly a program is held here: the tiers, from the firmest, and how a zygote of each is started."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tier:
    """One way of holding a program. Resource limits and the sweep after a run belong to all of them.

    Landlock names the files that may be read. seccomp refuses system calls; `strict`, without Landlock, it refuses to
    open any file. bubblewrap puts a zygote with its runs into namespaces: no other processes, no network, no IPC.
    """

    number: int
    bubblewrap: bool = False
    landlock: bool = False
    seccomp: bool = False

    @property
    def confinement(self) -> tuple[str, ...]:
        """See `RunResult.confinement`."""
        return tuple(name for name in ("bubblewrap", "landlock", "seccomp") if getattr(self, name))

    @property
    def strict(self) -> bool:
        return self.seccomp and not self.landlock

    def __str__(self) -> str:
        return f"tier {self.number} ({', '.join((*self.confinement, 'resource limits'))})"


TIERS = (
    Tier(1, bubblewrap=True, landlock=True, seccomp=True),
    Tier(2, landlock=True, seccomp=True),
    Tier(3, seccomp=True),
    Tier(4, landlock=True),
)
UNCONFINED = Tier(5)
"""Submitted code can do what this user can; never chosen unless the user accepts it."""

BUBBLEWRAP = (
    "--die-with-parent", "--new-session", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
)  # fmt: skip
BOOT = """
import sys, types
for name in ("leafe_verl", "leafe_verl.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[2]]
from leafe_verl.sandbox.zygote import main
main()
"""
"""Imports the zygote without what this package imports besides."""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All of it, of bubblewrap too, whose environment a run could read. A set's order, hence an answer, would differ from
run to run without a fixed seed."""


def zygote_command(tier: Tier, control: int) -> list[str]:
    """Return the command that starts a zygote on the descriptor `control`. Raises OSError where bubblewrap is missing.

    Not `python -I`, which would ignore PYTHONHASHSEED; what else it does, ENVIRONMENT and the zygote do.
    """
    settings = {
        "control": control,
        "confinement": tier.confinement,
        "landlock": tier.landlock,
        "seccomp": tier.seccomp,
        "strict": tier.strict,
        "preload_all": not tier.landlock,
    }
    folder = str(Path(__file__).parent)
    python = [sys.executable, "-s", "-S", "-B", "-X", "utf8", "-c", BOOT, json.dumps(settings), folder]
    if not tier.bubblewrap:
        return python
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("there is no bwrap on the PATH")
    return [bubblewrap, *BUBBLEWRAP, "--", *python]
