"""What is read of a model's folder: sizes, numbers of parameters, and which models are the embedded one."""

import json
import struct

import pytest

from leafe_verl import embedded
from leafe_verl.model_config import ModelShape, count_parameters, find_config, read_config
from qwen import qwen_config

QWEN = qwen_config("0.5b")


def write_config(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_weights(file, **shapes):
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    )
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())


@pytest.mark.parametrize(
    "config, parameters",
    [
        (QWEN, 494_032_768),
        (embedded.SIZES | {"tie_word_embeddings": True}, 134_515_008),
        (QWEN | {"tie_word_embeddings": False}, 494_032_768 + 151936 * 896),
        (QWEN | {"num_key_value_heads": None}, 494_032_768 + 24 * 896 * 2 * 12 * 64),
    ],
)
def test_parameters_follow_from_the_configuration(config, parameters):
    shape = ModelShape.from_config(config)
    assert shape.parameters == pytest.approx(parameters, rel=0.001)


def test_grouped_heads_share_keys_and_values():
    shape = ModelShape.from_config(QWEN)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (14, 2, 64)
    assert shape.kv_numbers_per_token == 2 * 24 * 2 * 64


def test_a_mixture_of_experts_is_counted_from_its_weights_alone(tmp_path):
    config = QWEN | {"num_experts": 60}
    assert ModelShape.from_config(config) is None
    folder = write_config(tmp_path / "moe", config)
    assert ModelShape.read(str(folder)) is None
    write_weights(folder / "model.safetensors", a=[1000, 20], b=[7])
    assert ModelShape.read(str(folder)).parameters == 20_007


def test_sizes_of_the_language_model_in_a_section_of_their_own():
    shape = ModelShape.from_config({"model_type": "both", "text_config": QWEN})
    assert shape == ModelShape.from_config(QWEN)


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 8}, QWEN | {"num_attention_heads": 0}, QWEN | {"vocab_size": None}]
)
def test_a_configuration_that_lacks_a_size_gives_no_shape(config):
    assert ModelShape.from_config(config) is None


def test_parameters_are_counted_over_all_files(tmp_path):
    assert count_parameters(tmp_path) is None
    write_weights(tmp_path / "model-00001.safetensors", a=[10, 10], b=[3])
    write_weights(tmp_path / "model-00002.safetensors", c=[2, 2, 2])
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    assert count_parameters(tmp_path) == 111


def test_a_second_copy_of_the_weights_is_not_counted(tmp_path):
    write_weights(tmp_path / "consolidated.safetensors", other=[10, 10])
    write_weights(tmp_path / "model-00001-of-00001.safetensors", a=[10, 10])
    assert count_parameters(tmp_path) == 200
    names = {"a": "model-00001-of-00001.safetensors", "b": "missing.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert count_parameters(tmp_path) == 100
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    write_weights(tmp_path / "model.safetensors", a=[5, 5])
    assert count_parameters(tmp_path) == 25


@pytest.mark.parametrize("inside", ["", "merged", "huggingface", "actor/huggingface"])
def test_the_configuration_of_a_checkpoint_is_found(tmp_path, inside):
    write_config(tmp_path / inside, QWEN)
    assert read_config(str(tmp_path)) == QWEN


def test_what_is_not_here_has_no_configuration(tmp_path):
    assert find_config(str(tmp_path)) is None
    assert find_config("/no/such/model") is None
    assert find_config("nobody-at-all/no-such-model") is None
    write_config(tmp_path, QWEN)
    (tmp_path / "config.json").write_text("[1]")
    assert read_config(str(tmp_path)) is None


def test_the_embedded_model_its_name_on_the_hub_and_its_checkpoints_are_recognised(tmp_path):
    checkpoint = write_config(
        tmp_path / "global_step_2" / "actor" / "huggingface", embedded.SIZES | {"eos_token_id": 2}
    )
    for model in (embedded.model_folder(), embedded.HUB_NAME, checkpoint, checkpoint.parents[1]):
        assert embedded.is_embedded(str(model))
    larger = write_config(tmp_path / "larger", embedded.SIZES | {"num_hidden_layers": 32})
    for model in (larger, "owner/name", "/no/such/model", write_config(tmp_path / "qwen", QWEN)):
        assert not embedded.is_embedded(str(model))
