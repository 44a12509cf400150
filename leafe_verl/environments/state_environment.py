"""Base class of environments whose whole state is one immutable value, so that a snapshot is that value."""

from __future__ import annotations

from abc import ABC
from typing import Generic, TypeVar

StateType = TypeVar("StateType")


class StateEnvironment(ABC, Generic[StateType]):
    """A subclass writes `reset` and `step` of core's `Environment`, and assigns a new frozen value to `self.state`.

    Rollback costs nothing: it assigns the snapshot. A subclass does not count its steps. As the contract says, the
    caller ends an attempt after `horizon` steps, so `Step.truncated` is False.
    """

    system_prompt: str = ""
    horizon: int = 30
    _state: StateType | None = None

    @property
    def state(self) -> StateType:
        """The state of the task that is being played. Raises RuntimeError before the first reset or restore."""
        if self._state is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        return self._state

    @state.setter
    def state(self, state: StateType) -> None:
        self._state = state

    def snapshot(self) -> StateType:
        return self.state

    def restore(self, snapshot: StateType) -> int:
        self.state = snapshot
        return 0

    def close(self) -> None:
        """Do nothing: the state holds no resources."""
