"""Calling a blocking environment from the event loop, and rolling one back by replay."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest

from fakes import TASK, DriftingCorridor, Ledger, ReplayCorridor
from leafe_verl.core import EnvironmentFailure, ReplayDivergence, Step
from leafe_verl.core.environment import has_failed
from leafe_verl.core.environment_calls import CallThread, call_within


def call(function, *arguments, seconds=20.0):
    return asyncio.run(call_within(seconds, "corridor.step", function, *arguments))


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    "terminated, info, failed",
    [
        (False, {}, None),
        (False, {"success": False, "error": False}, None),
        (False, {"error": True}, True),
        (True, {"success": True}, False),
        (True, {"success": False}, True),
        (True, {}, True),
        (True, {"success": False, "error": True}, True),
        (False, {"failed": True, "error": False}, True),
        (False, {"failed": False}, False),
        (False, {"failed": False, "error": True}, False),
        (False, {"failed": None, "error": True}, True),
        (True, {"failed": None, "success": True}, False),
    ],
)
def test_a_verdict_is_the_environments_own_or_that_of_an_error_or_of_the_end(terminated, info, failed):
    assert has_failed(Step("seen", 0.0, terminated, False, info)) is failed


class Hang:
    """A call that blocks until it is released."""

    def __init__(self):
        self.entered, self.released, self.thread = threading.Event(), threading.Event(), None

    def __call__(self):
        self.thread = threading.current_thread()
        self.entered.set()
        self.released.wait()

    def release(self):
        """Let the call end, wait for its thread and return that."""
        assert self.entered.wait(20)
        self.released.set()
        self.thread.join(20)
        return self.thread


class TestCallWithin:
    def test_returns_the_result_of_the_call(self):
        assert call(lambda a, b: (a, b), 1, "two") == (1, "two")

    def test_runs_off_the_event_loop(self):
        assert call(threading.get_ident) != threading.get_ident()

    @pytest.mark.parametrize(
        "error",
        [ValueError("no"), TimeoutError("its own"), StopIteration("odd"), SystemExit(3), KeyboardInterrupt()],
        ids=lambda error: type(error).__name__,
    )
    def test_names_what_the_environment_raised(self, error):
        with pytest.raises(EnvironmentFailure) as raised:
            call(raising(error))
        assert str(raised.value) == f"corridor.step raised {type(error).__name__}: {error}"
        assert raised.value.__cause__ is error

    def test_passes_an_environment_failure_on(self):
        failure = ReplayDivergence("elsewhere")
        with pytest.raises(ReplayDivergence) as raised:
            call(raising(failure))
        assert raised.value is failure

    def test_gives_up_on_a_call_that_hangs(self):
        hang = Hang()
        with pytest.raises(EnvironmentFailure, match=r"corridor.step took longer than 0.01 s; leafe.*step_timeout"):
            call(hang, seconds=0.01)
        hang.release()

    def test_a_late_result_is_dropped_in_silence(self):
        hang, complaints = Hang(), []

        async def late():
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            with pytest.raises(EnvironmentFailure):
                await call_within(0.01, "step", hang)
            hang.release()
            await asyncio.sleep(0)

        asyncio.run(late())
        assert complaints == []

    def test_a_loop_that_closes_before_the_call_ends_is_harmless(self, monkeypatch):
        hang, complaints = Hang(), []
        monkeypatch.setattr(threading, "excepthook", complaints.append)
        with pytest.raises(EnvironmentFailure):
            call(hang, seconds=0.01)
        thread = hang.release()
        assert thread.daemon and not thread.is_alive()
        assert complaints == []

    def test_an_environment_that_was_made_too_late_is_closed(self):
        made, closed = threading.Event(), threading.Event()

        class Late:
            def close(self):
                closed.set()

        def make():
            made.wait(20)
            return Late()

        async def late():
            with pytest.raises(EnvironmentFailure):
                await call_within(0.01, "make", make)
            made.set()
            await asyncio.get_running_loop().run_in_executor(None, closed.wait, 20)

        asyncio.run(late())
        assert closed.is_set()

    @pytest.mark.parametrize("how", ["its own method", "a function of it"])
    def test_what_an_environment_opens_after_it_was_closed_is_closed(self, how):
        going_on, closed = threading.Event(), threading.Event()

        class Slow:
            session = None

            def reset(self):
                going_on.wait(20)
                self.session = "open"

            def close(self):
                if self.session:
                    closed.set()

        async def late():
            environment = Slow()
            call = (environment.reset,) if how == "its own method" else (Slow.reset, environment)
            with pytest.raises(EnvironmentFailure):
                await call_within(0.01, "reset", *call)
            environment.close()
            going_on.set()
            await asyncio.get_running_loop().run_in_executor(None, closed.wait, 20)

        asyncio.run(late())
        assert closed.is_set()

    def test_an_environment_that_was_made_after_the_loop_had_closed_is_closed(self):
        made, closed = threading.Event(), threading.Event()

        class Late:
            def close(self):
                closed.set()
                raise OSError("gone")

        with pytest.raises(EnvironmentFailure):
            call(lambda: made.wait(20) and Late(), seconds=0.01)
        made.set()
        assert closed.wait(20)

    def test_another_thread_takes_over_from_one_that_hangs(self):
        hang, thread = Hang(), CallThread()

        async def calls():
            first = [await call_within(20, "step", threading.current_thread, thread=thread) for _ in range(3)]
            with pytest.raises(EnvironmentFailure):
                await call_within(0.01, "step", hang, thread=thread)
            second = [await call_within(20, "close", threading.current_thread, thread=thread) for _ in range(3)]
            return {*first}, {*second}

        (first,), (second,) = asyncio.run(calls())
        assert first is hang.thread is not second
        assert not hang.release().is_alive()
        thread.end()
        second.join(20)
        assert not second.is_alive()

    def test_a_hung_call_does_not_block_others(self):
        released = threading.Event()

        async def many():
            hung = [asyncio.ensure_future(call_within(20, "step", released.wait)) for _ in range(20)]
            answer = await call_within(20, "step", lambda: "answered")
            released.set()
            await asyncio.gather(*hung)
            return answer

        assert asyncio.run(many()) == "answered"


class TestReplayEnvironment:
    def played(self, actions, kind=ReplayCorridor):
        environment = kind(Ledger())
        environment.reset(TASK, 5)
        for action in actions:
            environment.step(action)
        return environment

    def test_restores_a_state_in_another_instance(self):
        snapshot = pickle.loads(pickle.dumps(self.played("RXR").snapshot()))
        other = self.played("J")
        assert other.restore(snapshot) == 3
        assert other.snapshot() == snapshot
        assert other.ledger.seeds == [5, 5]
        assert other.step("R").observation == "3"

    def test_a_snapshot_does_not_change_later(self):
        environment = self.played("R")
        snapshot = environment.snapshot()
        environment.step("J")
        assert snapshot.actions == ("R",) and len(snapshot.digests) == 2
        assert environment.restore(snapshot) == 1
        assert environment.step("R").observation == "2"

    def test_the_start_replays_nothing(self):
        assert self.played("RR").restore(self.played("").snapshot()) == 0

    def test_a_replay_that_differs_is_refused(self):
        snapshot = self.played("RR", DriftingCorridor).snapshot()
        drifted = DriftingCorridor(Ledger(made=1))
        with pytest.raises(
            ReplayDivergence, match="after 1 replayed actions .*must be deterministic.*reward 1.0, .*: 1 drift 2'"
        ):
            drifted.restore(snapshot)

    def test_a_start_that_differs_is_refused(self):
        class Moved(ReplayCorridor):
            def start(self, task, seed):
                super().start(task, seed)
                return "somewhere else", {}

        with pytest.raises(ReplayDivergence, match="after 0 replayed actions"):
            Moved(Ledger()).restore(self.played("R").snapshot())

    def test_an_observation_that_is_no_valid_text_can_be_recorded(self):
        class Garbled(ReplayCorridor):
            def start(self, task, seed):
                super().start(task, seed)
                return "\ud83d", {}

        environment = self.played("R", Garbled)
        assert environment.restore(environment.snapshot()) == 1
