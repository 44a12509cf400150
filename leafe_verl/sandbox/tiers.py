"""The tiers, which say how firmly a program is confined, and how a zygote of a tier is started."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tier:
    """A way to confine a program. All tiers also have resource limits, and kill what a run leaves behind.

    Landlock restricts the files that may be read. seccomp refuses system calls; without Landlock it is `strict` and
    refuses to open any file. bubblewrap puts a zygote and its runs into namespaces without other processes, network or
    IPC.
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


# From the firmest.
TIERS = (
    Tier(1, bubblewrap=True, landlock=True, seccomp=True),
    Tier(2, landlock=True, seccomp=True),
    Tier(3, seccomp=True),
    Tier(4, landlock=True),
)
UNCONFINED = Tier(5)
"""Submitted code can do whatever this user can. Chosen only if the user allows it."""

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
"""Program that imports the zygote without the rest of this package."""
NO_DIGIT_LIMIT = ("-X", "int_max_str_digits=0")
"""Long integers are read and printed. What that costs counts against a run's limit of time."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}
"""All environment variables of a zygote, and of bubblewrap, whose environment a run could read. Without a fixed hash
seed, the order of a set, and with it an answer, would differ from run to run. With more arenas, each thread would take
64 MiB or more of the address space before it uses any."""


def zygote_command(tier: Tier, control: int, writable: str | None = None) -> list[str]:
    """Return the command that starts a zygote on the descriptor `control`. Raises OSError if bubblewrap is missing.

    `writable`: the path of the only folder in which its runs may write; None for none.

    It does not use `python -I`, which would ignore PYTHONHASHSEED. ENVIRONMENT and the zygote do the rest of what `-I`
    does.
    """
    settings = {
        "control": control,
        "confinement": tier.confinement,
        "landlock": tier.landlock,
        "seccomp": tier.seccomp,
        "strict": tier.strict,
        "preload_all": not tier.landlock,
        "writable": writable,
    }
    folder = str(Path(__file__).parent)
    python = [sys.executable, "-s", "-S", "-B", "-X", "utf8", *NO_DIGIT_LIMIT, "-c", BOOT, json.dumps(settings), folder]
    if not tier.bubblewrap:
        return python
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("there is no bwrap on the PATH")
    bound = ["--bind", writable, writable] if writable else []
    return [bubblewrap, *BUBBLEWRAP, *bound, "--", *python]
