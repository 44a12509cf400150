"""The export through verl's own SFT data set: its tokens and masks beside those of training inside leafe-verl.

They differ in the line break behind a last end-of-turn token, which verl has and trains on, and in the loss on the
line breaks behind earlier ones; and where the sampled tokens are not those that the tokenizer makes of their text.
"""

from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

import datasets
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from end_to_end.tiny_model import make_tiny_model
from fakes import World, experience_in, grow, observation_in, reflection
from leafe_verl.core import Kind, Turn, build_examples
from leafe_verl.core.settings import DistillationSettings, GenerationSettings, ReflectionSettings
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.trees.export import ExportOptions, export
from trees.stores import provenance, write


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


class Scripted(ServerPolicy):
    """The served policy's tokenisation; R J R R without an experience, R R with it."""

    async def act(self, history, request):
        told = experience_in(history.messages) is not None
        return self.spoken("J" if observation_in(history.messages) == "1" and not told else "R")

    async def reflect(self, history, schema, request):
        return self.spoken(reflection(2, "do not jump"))

    def spoken(self, text):
        tokenizer = self.builder.tokenizer
        return Turn(text, (*tokenizer.encode(text), tokenizer.eos_token_id))


class PromptedWorld(World):
    """Environments with a system prompt, which has its own rules in chat templates."""

    def __call__(self):
        environment = super().__call__()
        environment.system_prompt = "Walk."
        return environment


def rescued(tokenizer):
    policy = Scripted(
        client=SimpleNamespace(),
        chat=ask_tokenizer(tokenizer, family="qwen"),
        sampling_params={},
        window=512,
        request_id="tree",
        generation=GenerationSettings(),
        reflection=ReflectionSettings(),
    )
    return grow(policy, PromptedWorld(), budget={"depth": 1})


def as_parquet(out, tmp_path):
    """Turn JSON lines into Parquet, as export.py says."""
    if out.suffix == ".jsonl":
        lines = datasets.load_dataset("json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
        lines.to_parquet(tmp_path / "of_lines.parquet")
        return tmp_path / "of_lines.parquet"
    return out


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("target", ["action", "suffix"])
def test_verl_trains_the_tokens_of_the_examples_and_the_line_break_behind_them(tmp_path, tokenizer, target, suffix):
    tree, settings = rescued(tokenizer), DistillationSettings(target=target, rehearsal_share=1.0)
    write(tmp_path, (tree, provenance()))
    out = tmp_path / f"out{suffix}"
    counts = export(tmp_path, out, ExportOptions(settings, form="verl"))
    assert (counts["counterfactual"], counts["rehearsal"], counts["rows"]) == (1, 1, 2)
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 512, "messages_key": "messages"})
    rows = MultiTurnSFTDataset(str(as_parquet(out, tmp_path)), tokenizer, config)
    end, line_break = tokenizer.eos_token_id, tokenizer.encode("\n")
    examples = build_examples(tree, settings, seed=0)
    assert [example.kind for example in examples] == [Kind.COUNTERFACTUAL, Kind.REHEARSAL]
    for example, row in zip(examples, rows, strict=True):
        token_ids, mask = row["input_ids"].tolist(), row["loss_mask"].tolist()
        assert token_ids == [*example.sequence.token_ids, *line_break]
        behind = [i for i in range(1, len(token_ids)) if mask[i] and token_ids[i - 1] == end]
        assert [token_ids[i] for i in behind] == line_break * len(behind)
        ours = [trained and i not in behind for i, trained in enumerate(mask)]
        assert ours == [*map(bool, example.sequence.mask), False]


def test_sampled_tokens_that_are_not_the_tokenizers_own_become_those(tokenizer):
    # One special token sampled as seven letters reads the same, and is one token again once it is text.
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "<|im_end|>"]
    assert tokenizer.decode(letters) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id]
