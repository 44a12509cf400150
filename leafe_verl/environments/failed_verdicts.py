"""Remembers what the tests of a task said about code that failed them, for as long as the task's tree is grown.

All attempts of a tree play the same `Task` object, and other trees of the task have objects of their own. So the memory
hangs on the object: it is shared by the attempts of one tree, not by plain attempts, and ends with the tree.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable

from leafe_verl.core.task import Task
from leafe_verl.sandbox import CodeVerdict
from leafe_verl.sandbox.encoding import OUT_OF_TIME
from leafe_verl.sandbox.protocol import FOLDER_TOO_LARGE, KILLED, MALFORMED, TIMEOUT

MOST_VERDICTS = 1024
"""Maximum number of verdicts of one task; more than the attempts of a tree have turns. Further ones are not kept."""


class FailedVerdicts:
    """Verdicts on code that failed, by the code and by what else decides a verdict on the task."""

    def __init__(self) -> None:
        self._verdicts: dict[Hashable, CodeVerdict] = {}

    def recall(self, key: Hashable, judge: Callable[[], CodeVerdict]) -> CodeVerdict:
        """Return the verdict that is kept under `key`, or call `judge`, and keep its verdict if it is to last.

        Two threads that ask for the same verdict at the same time both judge: one that waited would spend the time
        limit of its own step on it.
        """
        if (known := self._verdicts.get(key)) is not None:
            return known
        verdict = judge()
        if is_lasting(verdict) and len(self._verdicts) < MOST_VERDICTS:
            self._verdicts[key] = verdict
        return verdict


def is_lasting(verdict: CodeVerdict) -> bool:
    """Return whether code failed for a reason that is its own, and not the machine's load, memory or sandbox.

    A success never lasts: it is trained on, and a recovery target is confirmed by running the code again.
    """
    endings = (verdict.failure, *(test.error for test in verdict.tests))
    return not verdict.all_passed and not any(each and _may_change(each) for each in endings)


def _may_change(ending: str) -> bool:
    # How much is in a folder is looked at now and then, so a program that soon deletes it again may go unnoticed.
    return (
        ending in (TIMEOUT, MALFORMED, FOLDER_TOO_LARGE)
        or ending.startswith(KILLED)
        or any(each in ending for each in ("MemoryError", OUT_OF_TIME))
    )


def failed_verdicts(task: Task) -> FailedVerdicts:
    """Return the memory of a task object, which is made at the first call and ends with the object."""
    with _lock:
        known = _memories.get(id(task))
        if known is None:
            known = _memories[id(task)] = FailedVerdicts()
            # The finaliser runs before the id can belong to another object.
            weakref.finalize(task, _memories.pop, id(task), None).atexit = False
        return known


_lock = threading.Lock()
_memories: dict[int, FailedVerdicts] = {}
"""By the id of the task object, since a task holds a mapping and cannot be hashed."""
