"""The manifest: what must be the same for a store to go on."""

import dataclasses
import json

import pytest

from evaluation.stores import MANIFEST, task
from leafe_verl.evaluation.manifest import Manifest, fingerprint, read_manifest, write_manifest


def test_it_comes_back_as_it_was_written(tmp_path):
    collected = dataclasses.replace(MANIFEST, collections=({"date": "2026-01-01", "seed": 1000},))
    write_manifest(tmp_path, collected)
    assert read_manifest(tmp_path) == collected
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_folder_without_one_is_new(tmp_path):
    assert read_manifest(tmp_path) is None


def test_attempts_and_places_of_files_may_differ():
    other = dataclasses.replace(MANIFEST, attempts=128, sources=("moved.jsonl",), collections=({"seed": 0},))
    assert MANIFEST.differences(other) == []


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model": "other"}, "model is 'base', not 'other'"),
        ({"tasks": "2, sha256 1"}, "tasks is '3, sha256 0', not '2, sha256 1'"),
        ({"horizon": 2}, "horizon is 4, not 2"),
        ({"weights": "2b"}, "weights is '1a', not '2b'"),
        ({"template": {"options": {"enable_thinking": False}}}, "template.options.enable_thinking is None, not False"),
        ({"dtype": "bfloat16"}, "dtype is 'float32', not 'bfloat16'"),
        ({"sampling": {"temperature": 1.0, "top_p": 1.0}}, "sampling.temperature is 0.6, not 1.0"),
        ({"leafe": {"generation": {"max_tokens": 64}, "seed": 0}}, "leafe.generation.max_tokens is 512, not 64"),
    ],
)
def test_every_other_difference_is_named_with_both_values(changed, said):
    ours = dataclasses.replace(MANIFEST, dtype="float32", weights="1a")
    assert ours.differences(dataclasses.replace(ours, **changed)) == [said]


def test_what_an_earlier_version_did_not_write_down_is_no_difference():
    old = json.loads(json.dumps(dataclasses.asdict(MANIFEST)))
    del old["dtype"], old["weights"], old["template"]
    ours = dataclasses.replace(MANIFEST, dtype="float32", weights="1a")
    assert ours.differences(Manifest(**old)) == Manifest(**old).differences(ours) == []


@pytest.mark.parametrize("text", ["", "[]", "3", '{"schema": 1}', '{"schema": 1, "future": 2}'])
def test_what_is_no_manifest_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ValueError, match=r"evaluation\.json (is|has)"):
        read_manifest(tmp_path)


def test_another_schema_is_refused(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(ValueError, match="schema 2; expected 1"):
        read_manifest(tmp_path)


def test_the_fingerprint_sees_every_field_and_the_number():
    tasks = [task("a"), task("b")]
    assert fingerprint(tasks).startswith("2, sha256 ")
    assert fingerprint(tasks) == fingerprint(list(tasks))
    assert fingerprint(tasks) != fingerprint([task("a"), dataclasses.replace(task("b"), data={"x": 1})])
