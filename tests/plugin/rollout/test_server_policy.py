"""Token-exactness across turns, limits and failures of the served policy, with a scripted server."""

import asyncio
import hashlib
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from transformers import AutoTokenizer

from end_to_end.tiny_model import make_tiny_model
from leafe_verl.core import ContextOverflow, PolicyFailure, PolicyTimeout
from leafe_verl.core.policy import annotate
from leafe_verl.core.reflection import reflection_schema
from leafe_verl.core.settings import GenerationSettings, ReflectionSettings
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.server_policy import ServerPolicy


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


class Server:
    """Answers with the given token ids, in turn; records what it was asked."""

    def __init__(self, *answers, hang=False, error=None):
        self.answers, self.hang, self.error, self.asked = list(answers), hang, error, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.asked.append((request_id, prompt_ids, sampling_params))
        if self.hang:
            await asyncio.sleep(60)
        if self.error:
            raise self.error
        return SimpleNamespace(
            token_ids=self.answers.pop(0), log_probs=None, stop_reason="completed", extra_fields={"global_steps": 3}
        )


def policy(tokenizer, server, **changes):
    given = {
        "client": server,
        "chat": ask_tokenizer(tokenizer, family="qwen"),
        "sampling_params": {"temperature": 0.8},
        "window": 512,
        "request_id": "tree",
        "generation": GenerationSettings(max_tokens=8, timeout=5),
        "reflection": ReflectionSettings(max_tokens=16, max_characters=20, temperature=0.1),
        **changes,
    }
    return ServerPolicy(**given)


def test_two_turns_are_what_the_chat_template_renders_around_the_sampled_tokens(tokenizer):
    end = tokenizer.eos_token_id
    # "a" and "b" sampled as one token a letter, each closed by <|im_end|>
    first, second = ([*tokenizer.encode(letter), end] for letter in "ab")
    served = policy(tokenizer, Server(first, second))

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        turn = await served.act(opening, "attempt 0")
        history = await served.extend(opening, turn, "more")
        return opening, turn, history, await served.act(history, "attempt 0")

    opening, turn, history, last = asyncio.run(play())
    assert tokenizer.decode(opening.token_ids) == "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n"
    assert history.token_ids[: len(opening.token_ids) + 2] == (*opening.token_ids, *first)
    assert tokenizer.decode(history.token_ids[len(opening.token_ids) :]) == (
        "a<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (turn.text, turn.token_ids, turn.complete) == ("a", tuple(first), True)
    assert last.token_ids == tuple(second)
    assert served.weight_versions == {3}


def test_a_cut_turn_is_closed_in_the_history_but_not_in_the_action(tokenizer):
    cut = tokenizer.encode("aaaaaaaa")
    served = policy(tokenizer, Server(cut))

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        turn = await served.act(opening, "attempt 0")
        return opening, turn, await served.extend(opening, turn, "more")

    opening, turn, history = asyncio.run(play())
    assert not turn.complete
    assert turn.token_ids == tuple(cut)
    closed = history.token_ids[len(opening.token_ids) + len(cut)]
    assert closed == tokenizer.eos_token_id


def test_an_experience_keeps_every_token_before_it(tokenizer):
    served = policy(tokenizer, Server([*tokenizer.encode("a"), tokenizer.eos_token_id]))

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        history = await served.extend(opening, await served.act(opening, "attempt 0"), "more")
        return history, await annotate(served, history, "ADVICE")

    history, noted = asyncio.run(play())
    shared = tokenizer.decode(history.token_ids).index("more") + len("more")
    prefix = tokenizer.decode(history.token_ids)[:shared]
    assert tokenizer.decode(noted.token_ids).startswith(prefix + "\n\nADVICE")
    same = sum(a == b for a, b in zip(history.token_ids, noted.token_ids, strict=False))
    assert tokenizer.decode(noted.token_ids[:same]).startswith(prefix)


def test_siblings_ask_the_same_replica(tokenizer):
    end = tokenizer.eos_token_id
    server = Server([end], [end], [end])
    served = policy(tokenizer, server)

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        await asyncio.gather(
            served.act(opening, "attempt 0"),
            served.act(opening, "attempt 0"),
            served.reflect(opening, reflection_schema(2, 40), "reflection 0/0"),
        )

    asyncio.run(play())
    assert {request_id for request_id, _, _ in server.asked} == {"tree"}
    assert [params["temperature"] for _, _, params in server.asked] == [0.8, 0.8, 0.1]
    assert [params["max_tokens"] for _, _, params in server.asked] == [8, 8, 16]


def test_reflections_are_decoded_under_the_schema(tokenizer):
    pytest.importorskip("vllm", reason="vllm is not installed")
    server = Server([tokenizer.eos_token_id])
    served = policy(tokenizer, server, grammar=True)

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        return await served.reflect(opening, reflection_schema(3, 40), "reflection 0/0")

    asyncio.run(play())
    (_, _, params) = server.asked[0]
    assert params["structured_outputs"].json == json.dumps(reflection_schema(3, 40))


@pytest.mark.parametrize(
    "server, changes, failure, said",
    [
        (Server(hang=True), {"generation": GenerationSettings(max_tokens=8, timeout=0.05)}, PolicyTimeout, "timeout"),
        (Server(error=RuntimeError("replica died")), {}, PolicyFailure, "replica died"),
        (Server([]), {}, PolicyFailure, "no tokens"),
        (Server(), {"window": 20}, ContextOverflow, "leaves no room"),
    ],
)
def test_what_goes_wrong_is_a_policy_failure(tokenizer, server, changes, failure, said):
    served = policy(tokenizer, server, **changes)

    async def play():
        await served.act(await served.begin([{"role": "user", "content": "go"}]), "attempt 0")

    with pytest.raises(failure, match=said):
        asyncio.run(play())


def test_full_determinism_gives_every_request_its_own_seed_and_id(tokenizer):
    def requests():
        server = Server(*[[tokenizer.eos_token_id]] * 5)
        served = policy(tokenizer, server, seed="0 step 1, session 0 task")

        async def attempt(number):
            request = f"attempt {number}"
            opening = await served.begin([{"role": "user", "content": "go"}])
            await served.act(await served.extend(opening, await served.act(opening, request), "more"), request)

        async def play():
            await asyncio.gather(attempt(0), attempt(1))

        asyncio.run(play())
        return [(request_id, params["seed"]) for request_id, _, params in server.asked]

    first = requests()
    assert sorted(first) == sorted(requests())
    assert len({request_id for request_id, _ in first}) == len({seed for _, seed in first}) == 4


def test_the_sampling_seed_is_drawn_from_the_tree_the_request_and_the_length_of_its_prompt(tokenizer):
    server = Server([tokenizer.eos_token_id])
    served = policy(tokenizer, server, seed="0 step 1, session 0 task")

    async def play():
        await served.act(await served.begin([{"role": "user", "content": "go"}]), "attempt 1.0")

    asyncio.run(play())
    (request_id, prompt_ids, params) = server.asked[0]
    digest = hashlib.sha256(f"0 step 1, session 0 task attempt 1.0 {len(prompt_ids)}".encode()).digest()
    assert (request_id, params["seed"]) == (digest.hex()[:32], int.from_bytes(digest[-4:], "big"))


def test_without_full_determinism_no_request_has_a_seed(tokenizer):
    server = Server([tokenizer.eos_token_id])
    served = policy(tokenizer, server)

    async def play():
        await served.act(await served.begin([{"role": "user", "content": "go"}]), "attempt 0")

    asyncio.run(play())
    assert "seed" not in server.asked[0][2]
