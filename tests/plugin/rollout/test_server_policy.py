"""Token-exactness across turns, limits and failures of the served policy, with a scripted server."""

import asyncio
import dataclasses
import hashlib
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf
from transformers import AutoTokenizer

from end_to_end.tiny_model import make_tiny_model
from leafe_verl.core import ContextOverflow, History, PolicyFailure, PolicyTimeout
from leafe_verl.core.policy import annotate
from leafe_verl.core.reflection import reflection_schema
from leafe_verl.core.settings import GenerationSettings, ReflectionSettings
from leafe_verl.environments.fences import PAUSES, find_code_end
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.server_policy import MAX_PAUSES, ServerPolicy
from leafe_verl.plugin.rollout.task_loop import count_turn_slots


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


def policy(tokenizer, server, grammar=False, **changes):
    given = {
        "client": server,
        "chat": ask_tokenizer(tokenizer, family="qwen"),
        "sampling_params": {"temperature": 0.8},
        "window": 512,
        "request_id": "tree",
        "generation": GenerationSettings(max_tokens=8, timeout=5),
        "reflection": ReflectionSettings(max_tokens=16, max_characters=20, temperature=0.1, grammar=grammar),
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


def test_a_history_beyond_the_window_is_an_overflow_though_nothing_is_sampled_behind_it(tokenizer):
    served = policy(tokenizer, Server([*tokenizer.encode("a"), tokenizer.eos_token_id]))

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        turn = await served.act(opening, "attempt 0")
        history = await served.extend(opening, turn, "more")
        served.window = len(history.token_ids)
        assert await served.extend(opening, turn, "more") == history
        served.window -= 1
        with pytest.raises(ContextOverflow, match="data.max_response_length"):
            await served.extend(opening, turn, "more")

    asyncio.run(play())


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


CODE = "```python\nf = 1\n```"


class PausingServer:
    """Says `answer` as vLLM would: it stops at the stop texts, at the limit, or behind the end-of-turn token."""

    def __init__(self, tokenizer, answer, *, complete=True, seconds=0.0):
        end = [tokenizer.eos_token_id] if complete else []
        self.tokenizer, self.answer = tokenizer, [*tokenizer.encode(answer), *end]
        self.asked, self.opening, self.seconds = [], None, seconds

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        await asyncio.sleep(self.seconds)
        self.asked.append((request_id, prompt_ids, sampling_params))
        self.opening = self.opening or prompt_ids
        begin, given = len(prompt_ids) - len(self.opening), []
        assert prompt_ids == self.opening + self.answer[:begin]
        for token in self.answer[begin : begin + sampling_params["max_tokens"]]:
            given.append(token)
            if any(stop in self.tokenizer.decode(given) for stop in sampling_params.get("stop", ())):
                break
        log_probs = [-0.25] * len(given)
        return SimpleNamespace(token_ids=given, log_probs=log_probs, stop_reason="completed", extra_fields={})


def stopped(tokenizer, answer, *, prompt="go", pauses=PAUSES, complete=True, limit=200, seconds=0.0, **changes):
    server = PausingServer(tokenizer, answer, complete=complete, seconds=seconds)
    generation = GenerationSettings(max_tokens=limit, timeout=5)
    served = policy(tokenizer, server, **{"generation": generation, "find_end": find_code_end, **changes})
    served.pauses = pauses

    async def play():
        opening = await served.begin([{"role": "user", "content": prompt}])
        if changes.get("window") == "exact":
            served.window = len(opening.token_ids) + limit
        turn = await served.act(opening, "attempt 0")
        served.window = 1024  # which holds what follows the turn
        return opening, turn, await served.extend(opening, turn, "more")

    return *asyncio.run(play()), server


@pytest.mark.parametrize("pauses", [PAUSES, ()], ids=["paused", "cut afterwards"])
@pytest.mark.parametrize(
    "answer, kept",
    [
        (f"{CODE}\nIt is one.", CODE),
        (f"Here:\n\n{CODE}\nIt is one.", f"Here:\n\n{CODE}"),
        (f"```python\nf = (\n```\nSorry:\n{CODE}\n```python\nf\n```", f"```python\nf = (\n```\nSorry:\n{CODE}"),
        (f"<think>\n{CODE}\nno</think>\n{CODE}\nDone", f"<think>\n{CODE}\nno</think>\n{CODE}"),
    ],
)
def test_an_action_is_over_behind_the_closing_fence(tokenizer, pauses, answer, kept):
    end = tokenizer.eos_token_id
    opening, turn, history, server = stopped(tokenizer, answer, pauses=pauses)
    assert turn.text.strip() == kept.rpartition("</think>")[2].strip(), "a thought is no part of the answer"
    assert turn.token_ids == (*tokenizer.encode(kept), end)
    assert (turn.complete, turn.num_added) == (True, 1)
    assert turn.log_probs == (-0.25,) * turn.num_sampled + (0.0,)
    rendered = tokenizer.decode(history.token_ids[len(opening.token_ids) :])
    assert rendered == f"{kept}<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    longest = max(len(prompt_ids) + params["max_tokens"] for _, prompt_ids, params in server.asked)
    assert longest == len(opening.token_ids) + 200, "the limit is that of the whole turn"
    sampled = sum(params["max_tokens"] for *_, params in server.asked)
    assert bool(pauses) == (len(server.asked) > 1 or "stop" in server.asked[0][2]) and sampled


def test_nothing_is_sampled_behind_the_fence(tokenizer):
    *_, server = stopped(tokenizer, f"{CODE}\nIt is one.")
    (_, prompt_ids, params) = server.asked[-1]
    assert len(server.asked) == 1 and params["include_stop_str_in_output"] is True


@pytest.mark.parametrize("pauses", [PAUSES, ()], ids=["paused", "cut afterwards"])
@pytest.mark.parametrize(
    "answer, complete, limit",
    [
        (CODE, True, 200),  # ended by itself, with a sampled end of turn...
        ("I do not know.", True, 200),
        ("```python\nf = (\n```\nno", True, 200),
        ("```text\nf = 1\n```\n", True, 200),
        (CODE, False, len(CODE) - 1),  # cut before the fence is closed
        ("```python\nf = (\n```\n", False, len("```python\nf = (\n```")),  # cut just where it pauses
    ],
)
def test_other_actions_are_left_as_they_were_sampled(tokenizer, pauses, answer, complete, limit):
    end = (tokenizer.eos_token_id,) if complete else ()
    _, turn, _, server = stopped(tokenizer, answer, pauses=pauses, complete=complete, limit=limit)
    if answer == CODE and pauses and complete:  # ... that was not waited for
        assert turn.num_added == 1
    else:
        assert turn.num_added == 0
    assert turn.token_ids == (*tokenizer.encode(answer), *end)[:limit]
    assert turn.complete == complete


def test_an_action_that_the_limit_cut_behind_the_fence_is_complete_up_to_it(tokenizer):
    _, turn, _, _ = stopped(tokenizer, f"{CODE}\nIt is one", pauses=(), complete=False, limit=len(CODE) + 3)
    assert (turn.text, turn.complete, turn.num_added) == (CODE, True, 1)


def test_a_thought_that_the_prompt_opens_holds_no_end(tokenizer):
    served = policy(tokenizer, PausingServer(tokenizer, f"{CODE}\n</think>\n{CODE}\nDone"), window=1024)
    served.find_end, served.pauses, served.generation = find_code_end, PAUSES, GenerationSettings(max_tokens=200)
    served.chat = dataclasses.replace(served.chat, opens_thought=True)
    opening = History(tuple(tokenizer.encode("<|im_start|>assistant\n<think>\n")), ({"role": "user", "content": "go"},))
    turn = asyncio.run(served.act(opening, "attempt 0"))
    assert turn.token_ids == (*tokenizer.encode(f"{CODE}\n</think>\n{CODE}"), tokenizer.eos_token_id)
    assert turn.text == CODE


def test_many_fences_make_few_requests(tokenizer):
    _, turn, _, server = stopped(tokenizer, "```\n" * 40)
    assert len(server.asked) == MAX_PAUSES + 1
    assert "stop" not in server.asked[-1][2]
    assert turn.token_ids == (*tokenizer.encode("```\n" * 40), tokenizer.eos_token_id)


def test_an_end_of_turn_is_added_only_if_the_window_has_room_for_it(tokenizer):
    _, turn, _, _ = stopped(tokenizer, CODE, complete=False, limit=len(CODE), window="exact")
    assert (turn.num_added, turn.complete) == (0, False)


def test_the_time_limit_is_that_of_the_whole_turn(tokenizer):
    generation = GenerationSettings(max_tokens=200, timeout=0.3)
    with pytest.raises(PolicyTimeout, match="0.3 s"):
        stopped(tokenizer, f"x\n{'```' + chr(10)}" * 8, seconds=0.1, generation=generation)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    skipped = 0.0

    def time(self):
        return super().time() + self.skipped


def test_a_turn_that_waits_for_room_in_the_engine_does_not_use_up_its_time(tokenizer):
    async def play():
        slots = asyncio.Semaphore(1)
        served = policy(tokenizer, Server(*[[tokenizer.eos_token_id]] * 2), slots=slots)
        opening = await served.begin([{"role": "user", "content": "go"}])
        await slots.acquire()
        act = asyncio.ensure_future(served.act(opening, "attempt 0"))
        reflect = asyncio.ensure_future(served.reflect(opening, reflection_schema(1, 40), "reflection 0/0"))
        await asyncio.sleep(0)
        loop.skipped += 100 * served.generation.timeout
        await asyncio.sleep(0)
        assert not act.done() and not reflect.done() and not served.client.asked
        slots.release()
        return await asyncio.gather(act, reflect)

    loop = SkippingLoop()
    try:
        turns = loop.run_until_complete(play())
    finally:
        loop.close()
    assert [turn.token_ids for turn in turns] == [(tokenizer.eos_token_id,)] * 2


def test_no_more_turns_are_sampled_at_the_same_time_than_there_are_slots(tokenizer):
    running = []

    class Crowded(Server):
        async def generate(self, request_id, **request):
            running.append(+1)
            peaks.append(sum(running))
            await asyncio.sleep(0)
            running.append(-1)
            return await super().generate(request_id, **request)

    async def play():
        served = policy(tokenizer, Crowded(*[[tokenizer.eos_token_id]] * 10), slots=asyncio.Semaphore(3))
        opening = await served.begin([{"role": "user", "content": "go"}])
        await asyncio.gather(*(served.act(opening, f"attempt {number}") for number in range(10)))

    peaks = []
    asyncio.run(play())
    assert (len(peaks), max(peaks)) == (10, 3)


@pytest.mark.parametrize(
    ("devices", "parallel", "workers", "slots"),
    [((1, 1), (1, 1), 1, 128), ((8, 1), (2, 1), 8, 64), ((8, 2), (4, 2), 3, 86), ((1, 1), (2, 1), 8, 16)],
)
def test_each_rollout_worker_has_its_share_of_the_engines_room(devices, parallel, workers, slots):
    config = OmegaConf.create(
        {
            "trainer": dict(zip(("n_gpus_per_node", "nnodes"), devices, strict=True)),
            "actor_rollout_ref": {
                "rollout": {
                    "tensor_model_parallel_size": parallel[0],
                    "pipeline_model_parallel_size": parallel[1],
                    "max_num_seqs": 128,
                    "agent": {"num_workers": workers},
                }
            },
        }
    )
    assert count_turn_slots(config) == slots


def test_a_reflection_is_not_stopped(tokenizer):
    server = PausingServer(tokenizer, f"{CODE} x")
    served = policy(tokenizer, server, reflection=ReflectionSettings(max_tokens=100, grammar=False))
    served.find_end, served.pauses = find_code_end, PAUSES

    async def play():
        opening = await served.begin([{"role": "user", "content": "go"}])
        return await served.reflect(opening, reflection_schema(1, 40), "reflection 0/0")

    assert asyncio.run(play()).text == f"{CODE} x"
    assert "stop" not in server.asked[0][2]


def test_every_piece_has_its_own_seed_under_full_determinism(tokenizer):
    *_, server = stopped(tokenizer, f"Here:\n{CODE}\nx", seed="0 step 1")
    assert len({params["seed"] for *_, params in server.asked}) == len({name for name, *_ in server.asked}) == 2
