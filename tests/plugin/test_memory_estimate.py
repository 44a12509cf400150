"""The estimate of memory: figures by hand, what lowers them, what is free, and what a run that does not fit is told."""

import dataclasses
import json
import struct

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from hydra import compose, initialize_config_module

from leafe_verl.embedded import HELDOUT_FILE, SIZES, TRAIN_FILE
from leafe_verl.model_config import ModelShape, lost_its_tie
from leafe_verl.plugin.preflight import memory as memory_check
from leafe_verl.plugin.preflight.available_memory import available_memory
from leafe_verl.plugin.preflight.cpu_memory import GIB, RunSizes, estimate, lora_parameters, remedies
from leafe_verl.plugin.preflight.memory import check_memory, describe_memory
from leafe_verl.plugin.preflight.problems import find_problems
from leafe_verl.plugin.settings import RunSettings
from qwen import qwen_config

QWEN = qwen_config("0.5b")
TIED, UNTIED = (ModelShape.from_config({**QWEN, "tie_word_embeddings": tied}) for tied in (True, False))
RUN = RunSizes(
    ranks=1,
    trains=True,
    serves=True,
    weight_bytes=4,
    compute_bytes=2,
    engine_bytes=2,
    lora_rank=0,
    reference=False,
    checkpointing=True,
    micro_batch=2,
    length=1570,
    scored=256,
    cache=GIB,
    kept=1 << 26,
)


def need(model=TIED, **changed):
    return estimate(model, dataclasses.replace(RUN, **changed))


@pytest.fixture
def config(tmp_path):
    def build(*overrides, sizes=QWEN, name="leafe", device="cpu"):
        (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True, **sizes}))
        given = [
            f"device={device}",
            f"actor_rollout_ref.model.path={tmp_path}",
            f"data.train_files=[{TRAIN_FILE}]",
            f"data.val_files=[{HELDOUT_FILE}]",
            "leafe.evaluation.store=there",
            *overrides,
        ]
        with initialize_config_module("leafe_verl.plugin.config", version_base=None):
            return compose(name, overrides=given)

    return build


def sizes(config):
    from omegaconf import OmegaConf

    return RunSizes.read(config, RunSettings.from_mapping(OmegaConf.to_container(config.leafe, resolve=True)))


def test_a_trainer_holds_sixteen_bytes_for_each_number():
    weights = 16 * TIED.parameters
    assert 0 < need().trainer - weights < 4.5 * GIB
    assert need(reference=True).trainer - need().trainer == 2 * TIED.parameters
    assert need(trains=False).trainer < 6 * TIED.parameters + GIB
    assert need(weight_bytes=2).trainer < need().trainer - weights / 2


def test_vllm_holds_the_weights_twice_beside_its_cache():
    assert need(engine_bytes=4).engine - need().engine == 2 * (2 * TIED.parameters + 3 * TIED.embedding)
    assert (need(cache=3 * GIB).cache, need(ranks=2).cache) == (3 * GIB, 2 * GIB)
    alone = need(serves=False)
    assert (alone.engine, alone.cache, alone.trainer) == (0, 0, need().trainer)


def test_a_second_matrix_of_tokens_costs_the_trainer_and_vllm():
    more = need(UNTIED).total - need(TIED).total
    # Sixteen bytes with the trainer, four more while its gradients are converted, and two copies in bfloat16 with vLLM.
    assert more == (16 + 4 + 2 * 2) * TIED.embedding


def test_activations_grow_with_the_tokens_and_less_where_they_are_computed_again():
    kept, again = need(checkpointing=False).trainer, need().trainer
    assert kept - again > 2 * GIB
    assert need(checkpointing=False, micro_batch=1).trainer < kept - GIB
    assert need(scored=1570).trainer - again == 4 * 2 * (1570 - 256) * 151936 * 2


def test_adapters_alone_are_trained_with_lora():
    # Queries and outputs join 896 and 896, keys and values 896 and 128, the MLP's three 896 and 4864.
    assert lora_parameters(TIED, 8) == 8 * 24 * (2 * 1792 + 2 * 1024 + 3 * 5760)
    assert need(lora_rank=8).trainer < need().trainer - 12 * TIED.parameters


def test_remedies_say_what_each_saves_and_never_what_is_set_already():
    found = dict(remedies(TIED, dataclasses.replace(RUN, checkpointing=False, cache=4 * GIB)))
    assert found["VLLM_CPU_KVCACHE_SPACE=1 before the command"] == 3 * GIB
    assert [*found.values()] == sorted(found.values(), reverse=True)
    assert any("enable_gradient_checkpointing=true" in text for text in found)
    fewer = dict(remedies(TIED, RUN))
    assert not any("KVCACHE" in text or "checkpointing" in text or "n_gpus_per_node" in text for text in fewer)
    assert not any("actor" in text for text in dict(remedies(TIED, dataclasses.replace(RUN, trains=False))))


def test_the_sizes_of_a_run_are_read_from_its_configuration(config):
    other = sizes(config())
    assert (other.trains, other.serves, other.checkpointing, other.micro_batch) == (True, True, True, 2)
    assert (other.length, other.scored) == (250 + 4 * (256 + 80), 256)
    assert (other.cache, other.kept) == (GIB, 1 << 26)
    own = sizes(config(sizes=SIZES))
    assert (own.length, own.scored, own.checkpointing, own.cache) == (250 + 2 * (64 + 80), 64, False, 2 * GIB)
    assert sizes(config(name="grpo")).scored == other.length
    assert not sizes(config("leafe.schedule.stages=explore")).trains
    assert not sizes(config("leafe.schedule.stages=distil")).serves
    evaluated = sizes(config(name="evaluate"))
    assert (evaluated.trains, evaluated.weight_bytes) == (False, 2)
    assert sizes(config("leafe.environment.horizon=50")).length == 3072, "the window"


def test_a_run_that_does_not_fit_is_refused_with_the_estimate_and_what_lowers_it(config, monkeypatch):
    for name in ("chat_problems", "_thought_problems"):  # there is no tokenizer
        monkeypatch.setattr(f"leafe_verl.plugin.preflight.problems.{name}", lambda *_: [])
    monkeypatch.setattr(memory_check, "available_memory", lambda: 8 * GIB)
    (problem,) = find_problems(config("actor_rollout_ref.model.enable_gradient_checkpointing=false"))
    assert "needs about" in problem and "8.0 GiB are free" in problem
    assert "(trainer " in problem and "cache 1.0" in problem
    assert "enable_gradient_checkpointing=true saves" in problem and "stages=explore" in problem
    assert find_problems(config("leafe.memory.refuse=false")) == []
    monkeypatch.setattr(memory_check, "available_memory", lambda: 40 * GIB)
    assert find_problems(config()) == []
    assert describe_memory(config()).startswith("memory: this run needs about ")
    assert "of 40.0 GiB" in describe_memory(config())


def test_a_trainer_that_cannot_fit_on_the_gpus_is_refused_before_anything_starts(config, monkeypatch):
    for name in ("chat_problems", "_thought_problems"):  # there is no tokenizer
        monkeypatch.setattr(f"leafe_verl.plugin.preflight.problems.{name}", lambda *_: [])
    gpus = ("device=gpu", "trainer.n_gpus_per_node=1")
    monkeypatch.setattr(memory_check, "largest_gpu", lambda: 7 * GIB)
    (problem,) = find_problems(config(*gpus))
    assert problem.startswith("weights, gradients, AdamW's moments and what it computes take 9 GiB of each GPU, which ")
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    for changed in (f"{fsdp}.offload_policy=true", "leafe.memory.refuse=false", "trainer.n_gpus_per_node=2"):
        assert find_problems(config(*gpus, changed)) == []
    for memory in (16 * GIB, None):
        monkeypatch.setattr(memory_check, "largest_gpu", lambda memory=memory: memory)
        assert find_problems(config(*gpus)) == []


def test_there_is_no_estimate_where_none_would_be_honest(config, monkeypatch):
    assert check_memory(config(device="gpu"), RunSettings()) is None
    assert check_memory(config(sizes={"model_type": "odd"}), RunSettings()) is None
    assert check_memory(config("trainer.nnodes=2"), RunSettings()) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert check_memory(config(), RunSettings()) is None


def write_tensors(file, dtype, pack, **matrices):
    """Write a safetensors file of matrices, as lists of rows."""
    header, data = {}, b""
    for name, rows in matrices.items():
        begin = len(data)
        data += b"".join(pack(number) for row in rows for number in row)
        shape, place = [len(rows), len(rows[0])], [begin, len(data)]
        header[name.replace("__", ".")] = {"dtype": dtype, "shape": shape, "data_offsets": place}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


FORMATS = {
    "F32": lambda number: struct.pack("<f", number),
    "F16": lambda number: struct.pack("<e", number),
    "BF16": lambda number: struct.pack("<f", number)[2:],
}


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_matrix_that_a_conversion_stored_twice_is_noticed(tmp_path, config, monkeypatch, dtype):
    rows = [[float((3 * i * j + i + j) % 7 - 3) for j in range(1, 9)] for i in range(200)]
    near = [[number * 1.02 + 0.05 for number in row] for row in rows]
    for head, tied in ((near, True), (rows[1:] + rows[:1], False)):
        weights = {"model__embed_tokens__weight": rows, "lm_head__weight": head}
        write_tensors(tmp_path / "model.safetensors", dtype, FORMATS[dtype], **weights)
        assert lost_its_tie(tmp_path) is tied
    write_tensors(tmp_path / "model.safetensors", dtype, FORMATS[dtype], model__embed_tokens__weight=rows)
    assert not lost_its_tie(tmp_path)


def test_what_such_a_matrix_costs_is_said(config, monkeypatch):
    monkeypatch.setenv("LEAFE_CPU_DTYPE", "bfloat16")  # the figure below is that of 2 bytes a number
    monkeypatch.setattr(memory_check, "lost_its_tie", lambda folder: True)
    monkeypatch.setenv("LEAFE_CPU_DTYPE", "bfloat16")  # the engine's, which a processor may not have
    said = describe_memory(config("leafe.memory.refuse=false", sizes={**QWEN, "tie_word_embeddings": False}))
    assert "one matrix in two precisions" in said and f"save {24 * TIED.embedding / GIB:.1f} GiB" in said
    assert "two precisions" not in describe_memory(config())


def machine(root, total, free, cgroup=""):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {free >> 10} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(str(content))


def test_ray_s_twentieth_of_the_machine_is_not_free(tmp_path):
    machine(tmp_path, total=20 * GIB, free=15 * GIB)
    assert available_memory(tmp_path) == 14 * GIB


def test_a_control_group_of_version_2_and_those_around_it_count(tmp_path):
    machine(tmp_path, 20 * GIB, 15 * GIB, "0::/outer/inner\n")
    inner = tmp_path / "sys/fs/cgroup/outer/inner"
    group(inner, memory__max="max", memory__current=GIB, memory__stat="inactive_file 0\n")
    outer = {"memory__max": 10 * GIB, "memory__current": 4 * GIB, "memory__stat": f"anon 1\ninactive_file {GIB}\n"}
    group(inner.parent, **outer)
    assert available_memory(tmp_path) == 10 * GIB - 3 * GIB - 10 * GIB // 20


def test_a_control_group_of_version_1_counts_where_it_is_lower_than_the_machine(tmp_path):
    machine(tmp_path, 20 * GIB, 15 * GIB, "5:cpu:/x\n4:memory:/elsewhere\n0::/\n")
    top = tmp_path / "sys/fs/cgroup/memory"  # in a container the path is that of the host
    limits = {"memory__usage_in_bytes": GIB, "memory__stat": "total_inactive_file 0\n"}
    group(top, memory__limit_in_bytes=8 * GIB, **limits)
    assert available_memory(tmp_path) == 7 * GIB - 8 * GIB // 20
    group(top, memory__limit_in_bytes=(1 << 63) - 4096)
    assert available_memory(tmp_path) == 14 * GIB


def test_a_system_without_proc_says_nothing(tmp_path):
    assert available_memory(tmp_path) is None
