"""A given history on its way to the model: its tokens, the loop that goes on from it, and what the loop keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf
from transformers import AutoTokenizer

from end_to_end.tiny_model import make_tiny_model
from fakes import TASK, DriftingCorridor, ScriptedPolicy, World, grow
from leafe_verl.core import Explorer, Outcome, Settings, Turn
from leafe_verl.core.given import GivenHistory
from leafe_verl.evaluation.histories import DrawnHistory, FirstTurns, write_histories
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.collected import fingerprint
from leafe_verl.plugin.rollout.dataset import TASK_FIELD
from leafe_verl.plugin.rollout.evaluation import RecordedGivenLoop
from leafe_verl.plugin.rollout.given_histories import HISTORY_FIELD, in_own_tokens
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.trees import Provenance, read_trees


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


def drawn(action, world=None, **provenance):
    """A history of one step to the right, with another action's text and tokens; as a store holds it."""
    policy = ScriptedPolicy(lambda messages: "R")
    tree = grow(policy, world, budget={"depth": 0}, environment={"horizon": 1})
    step = dataclasses.replace(tree.path(0)[0], action=action, snapshot=None, failed=True)
    history = GivenHistory(TASK, (step,), 7)
    return DrawnHistory(history, Provenance(seed=7, **provenance), FirstTurns(3, 1, 3))


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ask_tokenizer(tokenizer)


def tokens_of(found):
    return found.steps[0].action.token_ids


def test_sampled_tokens_are_taken_where_the_tokenizer_is_the_same(tokenizer, chat):
    own = fingerprint(str(tokenizer.chat_template), len(tokenizer))
    sampled = (*tokenizer.encode("a"), *tokenizer.encode("b"), tokenizer.eos_token_id)
    given = drawn(Turn("ab", sampled), tokenizer=own)
    assert tokens_of(in_own_tokens(given, chat)) == sampled


@pytest.mark.parametrize(
    "provenance",
    [{"tokenizer": "another"}, {"tokenizer": None}, {"tokenizer": "own", "has_tokens": False}],
)
def test_tokens_of_another_tokenizer_are_never_taken(tokenizer, chat, provenance):
    own = fingerprint(str(tokenizer.chat_template), len(tokenizer))
    known = {**provenance, "tokenizer": own if provenance["tokenizer"] == "own" else provenance["tokenizer"]}
    found = in_own_tokens(drawn(Turn("ab", (48, 49, 50)), **known), chat)
    assert tokens_of(found) == (*tokenizer.encode("ab"), tokenizer.eos_token_id)


def test_tokens_that_do_not_give_the_text_are_not_taken(tokenizer, chat):
    own = fingerprint(str(tokenizer.chat_template), len(tokenizer))
    found = in_own_tokens(drawn(Turn("ab", tuple(tokenizer.encode("xyz"))), tokenizer=own), chat)
    assert tokens_of(found) == (*tokenizer.encode("ab"), tokenizer.eos_token_id)


def test_a_turn_that_the_limit_cut_is_not_closed(tokenizer, chat):
    found = in_own_tokens(drawn(Turn("ab", (), complete=False), has_tokens=False), chat)
    assert tokens_of(found) == tuple(tokenizer.encode("ab")) and not found.steps[0].action.complete


def test_a_turn_is_closed_and_read_as_the_model_s_own_template_would(tokenizer, chat):
    end = tokenizer.convert_tokens_to_ids("<|im_start|>")  # as if eos were not what ends a turn
    other = dataclasses.replace(chat, end_of_turn=end)
    tokens = tokens_of(in_own_tokens(drawn(Turn("a<|im_end|>b", ()), has_tokens=False), other))
    assert tokens[-1] == end and tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens[:-1]) == "a<|im_end|>b"


def test_sampled_thoughts_are_kept_though_they_are_no_part_of_the_text(tokenizer, chat):
    own = fingerprint(str(tokenizer.chat_template), len(tokenizer))
    sampled = (*tokenizer.encode("<think>no</think>ab"), tokenizer.eos_token_id)
    assert tokens_of(in_own_tokens(drawn(Turn("ab", sampled), tokenizer=own), chat)) == sampled


class Tokenizer:
    """Characters are tokens, as in `fakes`."""

    eos_token_id, chat_template = 4, ""

    def __len__(self):
        return 300

    def encode(self, text, add_special_tokens=True):
        return [*map(ord, text)]


def go_on(folder, given, world, answer="R"):
    """Play one attempt through the loop, and return the tree that it keeps and the names that it was played under."""
    write_histories(folder, [given])
    store, policy, names = str(folder / "store"), ScriptedPolicy(lambda messages: answer), []
    policy.weight_versions, policy.seconds = {3}, 0.5
    loop = object.__new__(RecordedGivenLoop)
    loop.rollout_config, loop.tokenizer = SimpleNamespace(calculate_log_probs=False), Tokenizer()
    loop.chat = SimpleNamespace(
        builder=SimpleNamespace(tokenizer=loop.tokenizer),
        given_turn=lambda text, complete: Turn(text, (*map(ord, text), 4)),
    )
    evaluation = {"store": store, "given": str(folder / "histories")}
    loop.settings = RunSettings.from_mapping({"evaluation": evaluation, "environment": {"horizon": 4}})
    loop.config = OmegaConf.create(
        {"trainer": {"experiment_name": "out"}, "actor_rollout_ref": {"model": {"path": "tiny"}}}
    )
    loop.server_manager = SimpleNamespace(worker_state=WorkerState())
    explorer = Explorer(world, policy, Settings.from_mapping({"environment": {"horizon": 4}}))
    loop.explorer = lambda task, params, played_for: (names.append(played_for), (explorer, policy))[1]
    extra_info = {TASK_FIELD: json.dumps(dataclasses.asdict(TASK)), HISTORY_FIELD: given.history.key}
    outputs = asyncio.run(loop.run({}, uid="row", extra_info=extra_info, global_steps=0, session_id=2))
    assert [output.response_mask for output in outputs] == [[0]]
    ((tree, provenance),) = read_trees(store)
    return tree, provenance, names


def test_the_loop_keeps_a_tree_that_begins_with_the_given_steps(tmp_path):
    given = drawn(Turn("R", (99,)), has_tokens=True, tokenizer="another")
    tree, provenance, names = go_on(tmp_path, given, World())
    assert [step.action.text for step in tree.path(0)] == ["R", "R", "R"]
    assert (len(tree.given), len(tree.attempts[0].steps)) == (1, 2)
    assert (tree.attempts[0].outcome, tree.attempts[0].replayed_steps) == (Outcome.SUCCESS, 1)
    assert (provenance.seed, provenance.model, provenance.has_tokens) == (7, "tiny", False)
    assert names == [f"step 0, session 2, history {given.history.key}"], "two histories of a task need two seeds"


def test_a_replay_that_diverges_is_kept_as_unscored(tmp_path):
    world = World(DriftingCorridor)
    tree, _, _ = go_on(tmp_path, drawn(Turn("R", ()), world, has_tokens=False), world)
    (attempt,) = tree.attempts
    assert attempt.outcome is Outcome.REPLAY_DIVERGENCE and "after 1 replayed actions" in attempt.error
