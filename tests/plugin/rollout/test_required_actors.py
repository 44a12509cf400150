"""Actors that nobody restarts, with Ray replaced by answers."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="ray is not installed; recipes/setup.sh installs it")

from ray.exceptions import RayActorError

from leafe_verl.plugin.rollout import required_actors
from leafe_verl.plugin.rollout.required_actors import RequiredActor


@pytest.fixture
def actor(monkeypatch):
    """An actor that is asked as often as `asked` says, and answers with what is in `answers`; None: not yet."""
    told = SimpleNamespace(asked=0, answers=[])

    def ask(question):
        told.asked += 1
        return "ping"

    def get(pings):
        if isinstance(answer := told.answers.pop(0), Exception):
            raise answer

    handle = SimpleNamespace(__ray_call__=SimpleNamespace(remote=ask))
    ready = lambda pings, timeout: ([], pings) if told.answers[0] is None and not told.answers.pop(0) else (pings, [])  # noqa: E731
    monkeypatch.setattr(required_actors.ray, "wait", ready)
    monkeypatch.setattr(required_actors.ray, "get", get)
    monkeypatch.setattr(required_actors, "PING_SECONDS", 0.01)
    told.watch = RequiredActor("the controller", handle)
    return told


def test_one_that_is_busy_is_not_asked_again_and_one_that_died_ends_the_run(actor):
    actor.answers = [None, None, "alive", RayActorError()]
    for _ in range(3):
        actor.watch.require()
    assert actor.asked == 1
    actor.watch._answered_at = float("-inf")
    with pytest.raises(RuntimeError, match="the controller died.*run the same command again"):
        actor.watch.require()
    assert actor.asked == 2


def test_one_that_has_just_answered_is_left_alone(actor, monkeypatch):
    monkeypatch.setattr(required_actors, "PING_SECONDS", 100.0)
    actor.answers = ["alive"]
    actor.watch.require()
    actor.watch.require()
    assert actor.asked == 1


def test_work_that_waits_for_a_dead_one_ends(actor):
    actor.answers = [None, RayActorError()]
    with pytest.raises(RuntimeError, match="the controller died"):
        actor.watch.while_it_lives(threading.Event().wait)


def test_what_the_work_returns_and_raises_comes_through(actor):
    assert actor.watch.while_it_lives(lambda: 3) == 3
    with pytest.raises(KeyError):
        actor.watch.while_it_lives(lambda: {}["missing"])
