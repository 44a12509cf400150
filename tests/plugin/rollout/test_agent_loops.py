"""The outputs of the agent loops, and the advantages that verl gives to several outputs of one attempt."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

import numpy as np
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from fakes import TASK, ScriptedPolicy, Stopped, World, experience_in, grow, observation_in, reflection, text_of
from leafe_verl.core import Explorer, Kind, Settings, TokenSequence
from leafe_verl.core.playbook import Playbook
from leafe_verl.core.recovery_figures import PlainAttempt
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Example, Teacher
from leafe_verl.plugin.rollout.dataset import TASK_FIELD
from leafe_verl.plugin.rollout.episode_loops import EpisodeLoop
from leafe_verl.plugin.rollout.explore_loops import ExploreLoop, StoredTreesLoop, find_mask_token
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.plugin.training.phases import phase_weights
from leafe_verl.plugin.wire import TREES_UNKEPT, ExampleRecord, TreeRecord, attempts_from_infos, read_record
from quiz import Quiz, played


def play(answer="R", worker=None, world=None, **settings):
    """One attempt of three steps to the right."""
    policy = ScriptedPolicy(lambda messages: answer)
    policy.weight_versions, policy.seconds = {3}, 0.5
    loop = object.__new__(EpisodeLoop)
    loop.rollout_config = SimpleNamespace(calculate_log_probs=True)
    explorer = Explorer(world or World(), policy, Settings.from_mapping(settings))
    loop.explorer = lambda task, params, played_for: (explorer, policy)
    loop.server_manager = SimpleNamespace(worker_state=worker or WorkerState())
    row = {"extra_info": {TASK_FIELD: json.dumps(dataclasses.asdict(TASK))}, "global_steps": 1, "session_id": 0}
    row["uid"] = "u"
    return asyncio.run(loop.run({}, **row)), policy


def test_an_attempt_is_one_output():
    (output,), policy = play()
    assert (output.reward_score, output.response_mask.count(1)) == (3.0, 6)
    info = output.extra_fields["reward_extra_info"]
    assert (info["acc"], info["steps"], info["timed_out_actions"]) == (1.0, 3.0, 0.0)
    record, attempt = read_record(output.extra_fields), PlainAttempt(True, 3, (), 0, unplayed=1)
    assert (record.task_key, record.plain_attempts) == (TASK.key, (attempt,))
    assert attempts_from_infos({name: [value] for name, value in info.items()}, 1) == [attempt]


def test_an_unscored_attempt_of_training_is_counted_although_it_gives_no_row():
    worker, broken = WorkerState(), World(options={"no_such_option": True})
    assert play(worker=worker, world=broken)[0] == [] and worker.unscored["outcome/environment_failure"] == 1
    worker.validated.add("u")
    assert play(worker=worker, world=broken)[0] == [] and worker.unscored["attempts"] == 1


def test_an_end_of_turn_that_nobody_sampled_is_not_trained_on_by_grpo():
    (stopped,), _ = play(Stopped("R"))
    (whole,), _ = play()
    assert stopped.response_ids == whole.response_ids
    trained = [token for token, mask in zip(stopped.response_ids, stopped.response_mask, strict=True) if mask]
    assert trained == [ord("R")] * 3


def test_a_window_gives_an_output_for_each_prompt_that_begins_anew():
    outputs, policy = play(context={"window": 1})
    assert [output.response_mask.count(1) for output in outputs] == [4, 2]
    assert [tuple(output.prompt_ids) for output in outputs] == [policy.prompts[n].token_ids for n in (0, 2)]
    records = [read_record(output.extra_fields) for output in outputs]
    assert [isinstance(record, TreeRecord) for record in records] == [False, True], "an attempt is counted once"
    assert {output.reward_score for output in outputs} == {3.0}


ACTOR = {"actor": {"use_dynamic_bsz": True, "ppo_max_token_len_per_gpu": 1000}}
TRACKED = {"trainer": {"logger": ["console"]}, "leafe": {"tracking": {"branches": 0}}, "actor_rollout_ref": ACTOR}


class Tokenizer:
    eos_token_id, chat_template = 0, ""

    def __len__(self):
        return 5


def test_a_tree_that_cannot_be_kept_is_counted_and_not_trained_on(tmp_path, caplog):
    policy = ScriptedPolicy(lambda messages: "R")
    policy.weight_versions, policy.seconds = {3}, 0.5
    store = tmp_path / "file" / "store"
    store.parent.write_text("where a folder should be")
    loop = object.__new__(ExploreLoop)
    loop.rollout_config, loop.tokenizer = SimpleNamespace(calculate_log_probs=False, n=1), Tokenizer()
    loop.settings = RunSettings.from_mapping({"collection": {"store": str(store)}})
    loop.config = OmegaConf.create(
        {"trainer": {"experiment_name": "run"}, "actor_rollout_ref": {"model": {"path": "m"}, **ACTOR}}
    )
    loop.explorer = lambda *_: (Explorer(World(), policy, loop.settings), policy)
    loop.server_manager = SimpleNamespace(worker_state=WorkerState())
    row = {"extra_info": {TASK_FIELD: json.dumps(dataclasses.asdict(TASK))}, "global_steps": 1, "session_id": 0}
    (output,) = asyncio.run(loop.run({}, **row))
    assert read_record(output.extra_fields) == TreeRecord({TREES_UNKEPT: 1}) and output.response_mask == [0]
    assert "leafe.collection.store names the folder" in caplog.text


def test_the_trees_of_another_run_are_explored_again_and_those_of_this_run_are_not(tmp_path):
    def explored(run):
        policy = ScriptedPolicy(lambda messages: "R")
        policy.weight_versions, policy.seconds = {3}, 0.5
        loop = object.__new__(ExploreLoop)
        loop.rollout_config, loop.tokenizer = SimpleNamespace(calculate_log_probs=False, n=1), Tokenizer()
        loop.settings = RunSettings.from_mapping({"collection": {"store": str(tmp_path)}})
        given = {"trainer": {"experiment_name": run, "logger": []}, "leafe": {"tracking": {"branches": 0}}}
        loop.config = OmegaConf.create({**given, "actor_rollout_ref": {"model": {"path": "m"}, **ACTOR}})
        loop.explorer = lambda *_: (Explorer(World(), policy, loop.settings), policy)
        loop.server_manager = SimpleNamespace(worker_state=WorkerState())
        row = {"extra_info": {TASK_FIELD: json.dumps(dataclasses.asdict(TASK))}, "global_steps": 1, "session_id": 0}
        asyncio.run(loop.run({}, **row))
        return bool(policy.prompts)

    assert [explored(run) for run in ("first", "first", "second", "second")] == [True, False, True, False]


def test_only_ace_begins_without_the_playbook_that_is_named(tmp_path):
    loop = object.__new__(EpisodeLoop)
    loop.settings = RunSettings.from_mapping({"playbook": {"path": str(tmp_path / "playbook.json")}})
    loop.config = OmegaConf.create({"trainer": {"v1": {"trainer_mode": "ace"}}})
    assert loop.playbook() == Playbook()
    loop.config.trainer.v1.trainer_mode = "leafe"
    with pytest.raises(ValueError, match="no playbook at .*leafe.playbook.path"):
        loop.playbook()


def test_verl_gives_each_output_its_attempts_advantage():
    # Two attempts of one task, of three outputs and of one, in an order that balancing has shuffled.
    keys, scores = ["u_0_2", "u_1_0", "u_0_0", "u_0_1"], [1.0, 0.0, 1.0, 1.0]
    mask = torch.ones(4, 2)
    rewards = torch.zeros(4, 2)
    rewards[:, 1] = torch.tensor(scores)
    data = DataProto.from_dict(
        {"token_level_rewards": rewards, "response_mask": mask}, {"uid": np.array(["u"] * 4, dtype=object)}
    )
    found = compute_advantage_for_multi_trajectories(data, keys, "grpo", num_repeat=2).batch["advantages"]
    assert found[0].tolist() == found[2].tolist() == found[3].tolist()
    # Of two attempts, the mean lies halfway: the three outputs do not count as three attempts.
    assert found[0, 0] == pytest.approx(-found[1, 0]) and found[0, 0] > 0


def taught(**distillation):
    """Records of a tree: an attempt that jumps at its second step, and a branch from there that succeeds."""

    def act(messages):
        return "J" if observation_in(messages) == "1" and experience_in(messages) is None else "R"

    policy = ScriptedPolicy(act, lambda messages, steps: reflection(2, "do not jump"))
    tree = grow(policy, World(), budget={"depth": 1})
    loop = object.__new__(ExploreLoop)
    loop.rollout_config = SimpleNamespace(calculate_log_probs=False)
    loop.tokenizer = SimpleNamespace(eos_token_id=4)
    loop.config = OmegaConf.create(TRACKED)
    loop.settings = RunSettings.from_mapping({"distillation": {"rehearsal_share": 1.0, **distillation}})
    examples = asyncio.run(loop.examples(tree, policy))
    rows = [(row, read_record(row.extra_fields)) for row in loop.rows(tree, examples, None)]
    return [(row, record) for row, record in rows if isinstance(record, ExampleRecord)]


@pytest.mark.parametrize("method, phases", [("leafe", [2]), ("early_experience", [2, 1])])
def test_examples_of_a_phase_are_adjacent_where_they_begin_alike(method, phases):
    taught_rows = taught(method=method)
    found = [[each for each in taught_rows if (each[1].kind is Kind.WORLD_MODEL) == phase] for phase in (True, False)]
    assert [len(phase) for phase in found if phase] == phases
    for phase in found:
        assert [record.origin for _, record in phase] == [(TASK.key, 0, i) for i in range(len(phase))]
        before: list[int] = []
        for row, record in phase:
            tokens, shared = row.prompt_ids + row.response_ids, record.shared_tokens
            assert tokens[:shared] == before[:shared] and tokens[shared : shared + 1] != before[shared : shared + 1]
            before = tokens


def test_a_counterfactual_example_brings_its_teacher():
    teachers = {record.kind: record.teacher for _, record in taught(loss="kl")}
    assert teachers[Kind.REHEARSAL] is None and teachers[Kind.COUNTERFACTUAL].tokens == 2
    assert text_of(teachers[Kind.COUNTERFACTUAL].prompt).endswith("do not jump<end><a>")
    assert [record.teacher for _, record in taught()] == [None, None]


def stored(*walks):
    """A tree as a store gives it, without snapshots."""
    tree = played(*walks)
    for index, attempt in enumerate(tree.attempts):
        steps = tuple(dataclasses.replace(step, snapshot=None) for step in attempt.steps)
        tree.attempts[index] = dataclasses.replace(attempt, steps=steps)
    return tree


def replayed(trees, tokenizer=None, task=None, **distillation):
    """The rows that stage 2 alone makes of stored trees."""
    loop = object.__new__(StoredTreesLoop)
    loop.rollout_config = SimpleNamespace(calculate_log_probs=False)
    loop.tokenizer = tokenizer or SimpleNamespace(bos_token_id=None, eos_token_id=4, pad_token_id=9)
    loop.config = OmegaConf.create(TRACKED)
    loop.settings = RunSettings.from_mapping({"distillation": {"rehearsal_share": 0.0, **distillation}})
    loop._store = lambda: SimpleNamespace(find_all=lambda key: trees)
    loop.explorer = lambda *_: (Explorer(Quiz, ScriptedPolicy({}), loop.settings), None)
    row = {"extra_info": {TASK_FIELD: json.dumps(dataclasses.asdict(task or trees[0].task))}}
    rows = asyncio.run(loop.run({}, **row, global_steps=1, session_id=0))
    return [(row, read_record(row.extra_fields)) for row in rows]


def test_stage_two_confirms_the_recovery_targets_that_a_store_lacks():
    (tree, summary), (row, example) = replayed([stored(["x", "y"], ["a"])], recovery_targets=4)
    assert (summary.counts["confirmations"], summary.counts["replayed_steps"]) == (1, 1)
    assert example.kind is Kind.RECOVERY and text_of(row.prompt_ids) == "<u>?<end><a>x<end><u>x!<end><a>"
    assert text_of(row.response_ids) == "a<end>" and row.response_mask == [1, 1]


def test_stage_two_trains_nothing_on_a_task_without_stored_trees():
    ((row, summary),) = replayed([], task=stored(["a"]).task)
    assert sum(row.response_mask) == 0 and summary.counts == {"trees_unkept": 0}


def test_stage_two_takes_what_a_tree_holds_as_it_is():
    tree = stored(["x", "y"], ["a"])
    tree.recovery_targets = []
    assert len(replayed([tree], recovery_targets=4)) == 1
    assert len(replayed([stored(["x", "y"], ["a"])])) == 1, "targets are a setting"


def test_stored_examples_that_no_micro_batch_holds_are_left_out_and_told(monkeypatch, caplog):
    monkeypatch.setitem(ACTOR["actor"], "ppo_max_token_len_per_gpu", 10)
    ((_, summary),) = replayed([stored(["x", "y"], ["a"])], recovery_targets=4)
    assert summary.counts["examples/recovery"] == 0
    assert "1 examples of more than 10 tokens are left out" in caplog.text


def sequence(length):
    return TokenSequence((1,) * length, (0, *[1] * (length - 1)), (0.0,) * length, prompt_length=1)


def test_of_a_pair_both_rows_are_left_out_and_a_teacher_alone(monkeypatch):
    monkeypatch.setitem(ACTOR["actor"], "ppo_max_token_len_per_gpu", 10)
    loop, tree = object.__new__(StoredTreesLoop), stored(["x"])
    loop.config = OmegaConf.create(TRACKED)
    pairs = [
        Example(Kind.PREFERENCE, sequence(length), 0, 1, rejected=row % 2 == 1)
        for row, length in enumerate((5, 20, 20, 5, 4, 6))
    ]
    assert [len(each.sequence.token_ids) for each in loop._that_fit(tree, pairs)] == [4, 6]
    taught = [Example(Kind.RECOVERY, sequence(3), 0, 1, teacher=Teacher((1,) * length, 2)) for length in (8, 9)]
    assert [each.teacher is None for each in loop._that_fit(tree, taught)] == [False, True]


def test_failed_turns_are_masked_in_the_context_with_the_padding_token():
    _, (row, _) = replayed([stored(["x", "y"], ["a"])], recovery_targets=4, context_mask=1.0)
    assert text_of(row.prompt_ids) == "<u>?<end><a>\t<end><u>x!<end><a>"


@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [
        ({"mask_token_id": 7, "pad_token_id": 3}, 7),
        ({"mask_token_id": None, "pad_token_id": 3, "unk_token_id": 0}, 3),
        ({"pad_token_id": 2, "unk_token_id": 0}, 0),
        ({"pad_token_id": 1, "unk_token_id": 0}, 0),
    ],
)
def test_a_token_that_the_template_uses_masks_nothing(tokens, chosen):
    assert find_mask_token(SimpleNamespace(bos_token_id=1, eos_token_id=2, **tokens)) == chosen


def test_a_tokenizer_without_a_token_to_mask_with_is_refused():
    with pytest.raises(ValueError, match="set leafe.distillation.context_mask=0"):
        find_mask_token(SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=2, unk_token_id=None))


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"counterfactual": 1.0, "rehearsal": 0.5}),
        ({"recovery_targets": 2, "recovery_weight": 3.0}, {"counterfactual": 1.0, "rehearsal": 0.5, "recovery": 3.0}),
        ({"hold_share": 0.1, "hold_weight": 0.2}, {"counterfactual": 1.0, "rehearsal": 0.5, "hold": 0.2}),
    ],
)
def test_a_loss_term_is_of_what_the_settings_turn_on(changes, terms):
    distillation = DistillationSettings(beta=0.5, **changes).model_dump()
    found = phase_weights(OmegaConf.create(distillation))
    assert found == {"world_model": {"world_model": 1.0}, "actor": terms}


@pytest.mark.parametrize(("workers", "nodes", "slots"), [(1, 1, 16), (8, 1, 2), (8, 2, 4), (3, 2, 8), (64, 1, 1)])
def test_the_rollout_workers_of_a_node_share_its_cores(monkeypatch, workers, nodes, slots):
    loop = object.__new__(EpisodeLoop)
    loop.rollout_config = SimpleNamespace(agent=SimpleNamespace(num_workers=workers))
    loop.config = SimpleNamespace(trainer=SimpleNamespace(nnodes=nodes))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    assert loop._cores() == slots
