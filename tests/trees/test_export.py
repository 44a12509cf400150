"""Rows for SFT trainers: which turns they train, and that no experience is in them."""

import json

import pyarrow.parquet as pq
import pytest

from fakes import Cut, ScriptedPolicy, experience_in, grow, observation_in, reflection
from leafe_verl.core import Kind, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.trees.export import ExportOptions, export
from leafe_verl.trees.export_rows import fold, sound_rows, trained_turns
from trees.stores import provenance, rescued, wandered, write

EVERY = DistillationSettings(events="every", events_per_task=99, rehearsal_share=1.0)


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def rows(tree, kind, form, **settings):
    chosen = DistillationSettings(events="every", rehearsal_share=1.0, **settings)
    examples = [example for example in build_examples(tree, chosen, seed=0) if example.kind is kind]
    return [row for example in examples for row, _ in sound_rows(tree, example, provenance(), form)]


class TestTrl:
    def test_counterfactual_action(self):
        (row,) = rows(rescued(), Kind.COUNTERFACTUAL, "trl")
        assert row == {
            "prompt": [user("0"), said("R"), user("1")],
            "completion": [said("R")],
            "kind": "counterfactual",
            "run": "first",
            "step": 1,
            "task_key": "corridor-3",
            "attempt": 1,
            "turns": [2],
            "folded": False,
        }

    def test_a_rehearsal_is_a_row_for_each_turn(self):
        found = rows(rescued(), Kind.REHEARSAL, "trl")
        assert [(len(row["prompt"]), row["completion"], row["turns"]) for row in found] == [
            (1, [said("R")], [1]),
            (3, [said("R")], [2]),
            (5, [said("R")], [3]),
        ]


class TestVerl:
    def test_counterfactual_action(self):
        (row,) = rows(rescued(), Kind.COUNTERFACTUAL, "verl")
        folded = "0<|im_end|>\n<|im_start|>assistant\nR<|im_end|>\n<|im_start|>user\n1"
        assert (row["messages"], row["turns"], row["folded"]) == ([user(folded), said("R")], [2], True)

    def test_counterfactual_suffix(self):
        (row,) = rows(rescued(), Kind.COUNTERFACTUAL, "verl", target="suffix")
        assert row["messages"][1:] == [said("R"), user("2"), said("R")]
        assert (row["turns"], row["folded"]) == ([2, 3], True)

    def test_a_rehearsal_is_one_row_of_any_template(self):
        (row,) = rows(rescued(), Kind.REHEARSAL, "verl")
        assert row["messages"] == [user("0"), said("R"), user("1"), said("R"), user("2"), said("R")]
        assert (row["turns"], row["folded"]) == ([1, 2, 3], False)

    def test_a_turn_that_is_not_trained_splits_a_rehearsal(self):
        tree = grow(ScriptedPolicy(lambda messages: Cut("R") if observation_in(messages) == "1" else "R"))
        first, second = rows(tree, Kind.REHEARSAL, "verl")
        assert (first["messages"], first["turns"]) == ([user("0"), said("R")], [1])
        assert (second["turns"], second["folded"]) == ([3], True)

    def test_a_system_prompt_stays_a_message(self):
        system = {"role": "system", "content": "Be brief."}
        assert fold([system, user("0"), said("R"), user("1")])[0] == system


@pytest.mark.parametrize("form", ["trl", "verl"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_train_the_turns_of_the_mask_each_once_and_hold_no_experience(form, seed):
    tree = wandered(seed)
    for example in build_examples(tree, EVERY, seed):
        found = [row for row, _ in sound_rows(tree, example, provenance(), form)]
        path, turns = tree.path(example.attempt), [turn for row in found for turn in row["turns"]]
        assert turns == trained_turns(tree, example)
        assert sum(len(path[t - 1].action.token_ids) for t in turns) == sum(example.sequence.mask)
        trained = [m for row in found for m in row.get("completion", row.get("messages")) if m["role"] == "assistant"]
        assert [message["content"] for message in trained] == [path[t - 1].action.text for t in turns]
        assert "advice" not in json.dumps(found)


class TestFiles:
    def test_json_lines(self, tmp_path):
        store = tmp_path / "store"
        write(store, (rescued("a"), provenance(1)), (rescued("a"), provenance(1)), (rescued("b"), provenance(2)))
        counts = export(store, tmp_path / "out.jsonl", ExportOptions(EVERY))
        examples = {"counterfactual": 2, "rehearsal": 2, "recovery": 0}
        assert counts == {"trees": 2, **examples, "rows": 8, "folded": 0}
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [line["task_key"] for line in lines] == ["a"] * 4 + ["b"] * 4

    def test_parquet(self, tmp_path):
        store = tmp_path / "store"
        write(store, (rescued(), provenance()))
        counts = export(store, tmp_path / "out.parquet", ExportOptions(EVERY, (Kind.COUNTERFACTUAL,), form="verl"))
        assert counts == {"trees": 1, "counterfactual": 1, "rows": 1, "folded": 1}
        (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert row["messages"][-1] == said("R")

    def test_the_stored_seed_draws_what_training_drew(self, tmp_path):
        def act(messages):
            return "R" if experience_in(messages) is None or observation_in(messages) == "2" else "Q"

        trees = [grow(ScriptedPolicy(act, {2: reflection(1, "e")}), roots=4) for _ in range(6)]
        write(tmp_path, *((tree, provenance(step, seed=step)) for step, tree in enumerate(trees)))
        share = DistillationSettings(rehearsal_share=0.5)
        drawn = sum(
            sum(example.kind is Kind.REHEARSAL for example in build_examples(tree, share, seed))
            for seed, tree in enumerate(trees)
        )
        assert export(tmp_path, tmp_path / "x.jsonl", ExportOptions(share))["rehearsal"] == drawn

    def test_what_is_refused(self, tmp_path):
        store = tmp_path / "store"
        write(store, (rescued(), provenance(seed=None)))
        with pytest.raises(ValueError, match="--format verl writes .parquet or .jsonl; name the file so"):
            export(store, tmp_path / "out.csv", ExportOptions(form="verl"))
        with pytest.raises(ValueError, match="--format trl writes .jsonl; name the file so"):
            export(store, tmp_path / "out.parquet", ExportOptions())
        with pytest.raises(ValueError, match="stored without a seed; choose one with --seed"):
            export(store, tmp_path / "out.jsonl", ExportOptions())
        assert not (tmp_path / "out.jsonl").exists()
        export(store, tmp_path / "out.jsonl", ExportOptions(seed=1))
        with pytest.raises(ValueError, match="exists; expected a new file"):
            export(store, tmp_path / "out.jsonl", ExportOptions(seed=1))
        with pytest.raises(ValueError, match="no store; expected a folder with trees-"):
            export(tmp_path, tmp_path / "other.jsonl", ExportOptions())
