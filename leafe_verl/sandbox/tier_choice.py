"""Finding out which tiers work on this machine, and choosing the firmest of them."""

from __future__ import annotations

import functools
import logging
import os
import threading

from leafe_verl.sandbox.tiers import TIERS, UNCONFINED, Tier
from leafe_verl.sandbox.worker import TierUnavailable, Worker

logger = logging.getLogger(__name__)
_choosing = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked copy of this process: a thread that only the original has may have held it."""
    global _choosing
    _choosing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def choose_tier(number: int | None, bubblewrap: str, allow_unconfined: bool, with_folder: bool = False) -> Tier:
    """Return the firmest tier that is wanted and works.

    Raises RuntimeError with the reasons if none works, and OSError if that cannot be told now.
    """
    with _choosing:
        return _choose_once(number, bubblewrap, allow_unconfined, with_folder)


@functools.cache
def _choose_once(number: int | None, bubblewrap: str, allow_unconfined: bool, with_folder: bool) -> Tier:
    candidates = [tier for tier in TIERS if _is_wanted(tier, number, bubblewrap)]
    problems: list[str] = []
    for tier in candidates:
        problem = _problem_with(tier, with_folder)
        if problem is None:
            _note(tier, problems)
            return tier
        problems.append(f"tier {tier.number}: {problem}")
    if not allow_unconfined:
        raise RuntimeError(
            f"submitted code cannot be confined here ({'; '.join(problems)}), so it could read and write whatever this "
            "process can; run in a container that allows Landlock or seccomp, or accept the risk by "
            "leafe.environment.options.allow_unconfined=true, of a reward function reward_kwargs.allow_unconfined=true"
        )
    _note(UNCONFINED, problems)
    return UNCONFINED


def _is_wanted(tier: Tier, number: int | None, bubblewrap: str) -> bool:
    if number is not None:
        return tier.number == number
    return {"auto": True, "on": tier.bubblewrap, "off": not tier.bubblewrap}[bubblewrap]


def _note(tier: Tier, problems: list[str]) -> None:
    if problems:
        logger.warning("submitted code runs in %s; %s", tier, "; ".join(problems))
    else:
        logger.info("submitted code runs in %s", tier)


@functools.cache
def _problem_with(tier: Tier, with_folder: bool = False) -> str | None:
    """Return why a tier does not work here; None if it works. The zygote that this starts tries what is forbidden.

    Raises OSError if that cannot be told now, as without room for a folder, so that a later call asks again.
    """
    try:
        Worker(tier, with_folder).close()
    except TierUnavailable as problem:
        return str(problem)
    return None


def available_tiers() -> tuple[Tier, ...]:
    """Return those of TIERS that work here. `SandboxPool` takes the number of any of them."""
    return tuple(tier for tier in TIERS if _problem_with(tier) is None)
