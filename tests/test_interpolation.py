"""Weights between two models: exact, in new folders alone, and refused where the models are not alike."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from safetensors.torch import load_file, save_file

from leafe_verl.cli import main


def model(folder, *shards):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for number, shard in enumerate(shards):
        tensors = {name: torch.tensor(values, dtype=torch.bfloat16) for name, values in shard.items()}
        save_file(tensors, folder / f"{number}.safetensors")
    return folder


def weights(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def interpolate(before, after, out, share="0.25"):
    return main(["interpolate", str(before), str(after), "--share", share, "--out", str(out)])


def test_a_model_lies_between_two_however_their_files_are_cut(tmp_path, capsys):
    before = model(tmp_path / "before", {"a": [0.0, 4.0], "b": [8.0]})
    after = model(tmp_path / "after", {"a": [4.0, 0.0]}, {"b": [0.0]})
    assert interpolate(before, after, tmp_path / "out") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    found = weights(tmp_path / "out")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [1.0, 3.0], "b": [6.0]}
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_second_copy_of_the_weights_and_a_home_folder_are_no_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = model(tmp_path / "before", {"a": [0.0]}, {"consolidated": [0.0]})
    (before / "model.safetensors.index.json").write_text('{"weight_map": {"a": "0.safetensors"}}')
    model(tmp_path / "after", {"a": [4.0]})
    assert interpolate("~/before", "~/after", tmp_path / "out") == 0
    assert {name: tensor.tolist() for name, tensor in weights(tmp_path / "out").items()} == {"a": [1.0]}


@pytest.mark.parametrize(
    ("other", "share", "said"),
    [
        ({"c": [1.0]}, "0.5", "not the same kind of model: 2 weights are in one of them alone, such as a"),
        ({"a": [1.0, 2.0]}, "0.5", "a has the shape (1,) in"),
        ({"a": [1.0]}, "1", "expected a number above 0 and below 1"),
        ({}, "0.5", "has no *.safetensors"),
    ],
)
def test_what_lies_between_nothing_is_refused(tmp_path, capsys, other, share, said):
    before = model(tmp_path / "before", {"a": [1.0]})
    after = model(tmp_path / "after", *([other] if other else []))
    (after / "pytorch_model.bin").touch()
    assert interpolate(before, after, tmp_path / "out", share) == 1
    assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_no_folder_is_written_over(tmp_path, capsys):
    before = model(tmp_path / "before", {"a": [1.0]})
    assert interpolate(before, before, before) == 1
    assert "exists; name a new folder" in capsys.readouterr().err
