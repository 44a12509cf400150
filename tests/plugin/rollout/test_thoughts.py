"""Thoughts of a served model: sampled within their own limit, closed, shown in later prompts or not, token-exact."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from leafe_verl.core import ContextOverflow
from leafe_verl.core.reflection import reflection_schema
from leafe_verl.core.settings import GenerationSettings, ReflectionSettings
from leafe_verl.environments.fences import PAUSES, find_code_end
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from plugin.chat_templates import CHATML, DEEPSEEK_R1, FAMILIES, QWEN3, Family, make_tokenizer

TASK, FEEDBACK = {"role": "user", "content": "Add 1 and 1."}, "Wrong."
SPELLED = Family(CHATML, ("<|im_start|>", "<|im_end|>"), None, "<|im_end|>")
"""A model whose tags are many tokens, and whose template keeps the thoughts of earlier turns."""
MAGISTRAL = Family(CHATML, ("<|im_start|>", "<|im_end|>", "[THINK]", "[/THINK]"), None, "<|im_end|>")
"""A model whose tags are special tokens, which vLLM's text does not show."""
MODELS = {
    "qwen3": FAMILIES["qwen3"],
    "r1": FAMILIES["deepseek-r1"],
    "spelled": SPELLED,
    "magistral": MAGISTRAL,
    "qwq": FAMILIES["qwq"],
    "v3.1": FAMILIES["deepseek-v3.1"],
    "glm4.5": FAMILIES["glm4.5"],
    "gemma4": FAMILIES["gemma4"],
    "command-a": FAMILIES["command-a"],
}
OPENED = ("r1", "qwq", "v3.1")
"""Models whose prompts open a thought."""
TAGS = {
    "magistral": ("[THINK]", "[/THINK]"),
    "gemma4": ("<|channel>", "<channel|>"),
    "command-a": ("<|START_THINKING|>", "<|END_THINKING|>"),
}
"""Tags of the models that do not write <think>."""
CODE = "```python\nf = 1\n```"


class Server:
    """Says its answers as vLLM would: up to the limit, a stop token or a stop text."""

    def __init__(self, tokenizer, *answers):
        self.tokenizer, self.answers, self.asked = tokenizer, [list(answer) for answer in answers], []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.asked.append((prompt_ids, sampling_params))
        stop_ids = (self.tokenizer.eos_token_id, *sampling_params.get("stop_token_ids", ()))
        given, answer = [], self.answers[0]
        while answer and len(given) < sampling_params["max_tokens"]:
            given.append(answer.pop(0))
            text = self.tokenizer.decode(given, skip_special_tokens=True)
            if given[-1] in stop_ids or any(stop in text for stop in sampling_params.get("stop", ())):
                break
        if not answer or "structured_outputs" in sampling_params:
            self.answers.pop(0)
        log_probs = [-0.25] * len(given)
        return SimpleNamespace(token_ids=given, log_probs=log_probs, stop_reason="completed", extra_fields={})


def served(name, *answers, ended=True, **changes):
    """A policy of a model that gives these answers, each with its end of turn."""
    family = MODELS[name]
    tokenizer = make_tokenizer(family)
    chat = ask_tokenizer(tokenizer, model_type=family.model_type, template_options=family.options)
    tokens = [[*tokenizer.encode(answer, add_special_tokens=False), *[chat.end_of_turn] * ended] for answer in answers]
    generation = {"max_tokens": 40, "timeout": 5, **changes.pop("generation", {})}
    reflection = ReflectionSettings(grammar=changes.pop("grammar", False))
    given = {"reflection": reflection, "window": 1024, **changes}
    return ServerPolicy(
        Server(tokenizer, *tokens), chat, {}, request_id="tree", generation=GenerationSettings(**generation), **given
    )


def play(policy):
    """Return the opening history, the turn and the history after the feedback."""

    async def turns():
        opening = await policy.begin([TASK])
        turn = await policy.act(opening, "attempt 0")
        return opening, turn, await policy.extend(opening, turn, FEEDBACK)

    return asyncio.run(turns())


def text(policy, token_ids):
    return policy.builder.tokenizer.decode(list(token_ids))


def thought(name, said="hm"):
    """A thought as the model writes it; the prompt may have opened it."""
    opens, closes = TAGS.get(name, ("<think>", "</think>"))
    return f"{'' if name in OPENED else opens + chr(10)}{said}\n{closes}\n\n"


@pytest.mark.parametrize("name", MODELS)
def test_thoughts_are_counted_in_tokens(name):
    policy = served(name, f"{thought(name)}go")
    _, turn, _ = play(policy)
    assert turn.text == "go"
    assert text(policy, turn.token_ids[: turn.num_thoughts]) == thought(name)
    assert text(policy, turn.answer_ids).startswith("go") and turn.num_closing == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("answer", ["go", "I think, so I am"])
def test_a_turn_without_thoughts_has_none(name, answer):
    if name in OPENED:
        pytest.skip("its prompts open a thought")
    _, turn, _ = play(served(name, answer))
    assert (turn.text, turn.num_thoughts) == (answer, 0)


@pytest.mark.parametrize("limit", [None, 30])
@pytest.mark.parametrize("name", MODELS)
def test_later_prompts_hold_earlier_thoughts_as_the_template_renders_them(name, limit):
    begins = "<|START_RESPONSE|>" if name == "command-a" else ""
    policy = served(name, f"{thought(name)}{begins}go", generation={"thought_tokens": limit})
    opening, turn, history = play(policy)
    dropped = name not in ("spelled", "magistral")
    assert policy.chat.thoughts.dropped == dropped
    said = "go" if dropped else f"{thought(name)}go"
    rendered = policy.builder.tokenizer._tokenizer.apply_chat_template(
        [TASK, {"role": "assistant", "content": said}, {"role": "user", "content": FEEDBACK}],
        add_generation_prompt=True,
        return_dict=False,
        **MODELS[name].options,
    )
    assert list(history.token_ids) == rendered
    assert [message["content"] for message in history.messages] == [TASK["content"], "go", FEEDBACK]


@pytest.mark.parametrize("name", OPENED)
def test_a_turn_that_is_nothing_but_its_end_is_continued_token_for_token(name):
    opening, turn, history = play(served(name, ""))
    assert (turn.text, turn.num_thoughts, len(turn.token_ids)) == ("", 0, 1)
    kept = (*opening.token_ids, *turn.token_ids)
    assert history.token_ids[: len(kept)] == kept


@pytest.mark.parametrize(("name", "earlier"), [("qwen3", "keep"), ("r1", "keep"), ("spelled", "drop")])
def test_the_setting_decides_whatever_the_template_does(name, earlier):
    policy = served(name, f"{thought(name)}go", generation={"earlier_thoughts": earlier})
    opening, turn, history = play(policy)
    if earlier == "keep":
        kept = (*opening.token_ids, *turn.token_ids)
        assert history.token_ids[: len(kept)] == kept
    else:
        kept = (*opening.token_ids, *turn.answer_ids)
        assert history.token_ids[: len(kept)] == kept and "hm" not in text(policy, history.token_ids)


@pytest.mark.parametrize("name", MODELS)
def test_a_thought_that_reaches_its_limit_is_closed_and_answered(name):
    said = thought(name, "x" * 60).partition(f"\n{TAGS.get(name, ('', '</think>'))[1]}")[0]
    policy = served(name, said, "go", generation={"thought_tokens": 50, "max_tokens": 8})
    policy.client.answers[0].pop()  # the thought goes on and on
    policy.client.answers[0] = policy.client.answers[0][:50]
    opening, turn, history = play(policy)
    closing = policy.chat.thoughts.closing_ids
    assert (turn.text, turn.complete, turn.num_closing) == ("go", True, len(closing))
    assert turn.token_ids[50 : 50 + len(closing)] == closing
    assert turn.num_thoughts == 50 + len(closing)
    assert turn.log_probs == (-0.25,) * 50 + (0.0,) * len(closing) + (-0.25,) * 3
    assert policy.client.asked[-1][0] == [*opening.token_ids, *turn.token_ids[: turn.num_thoughts]]
    assert policy.client.asked[-1][1]["max_tokens"] == 8, "the answer has its own limit"
    assert turn.mask() == [1] * 50 + [0] * len(closing) + [1] * 3


@pytest.mark.parametrize("name", MODELS)
def test_the_answer_has_its_whole_limit_behind_a_short_thought(name):
    policy = served(name, f"{thought(name)}{'y' * 20}", generation={"thought_tokens": 50, "max_tokens": 8})
    _, turn, _ = play(policy)
    assert (turn.text, turn.complete, turn.num_closing) == ("y" * 6, False, 0), "two tokens are line breaks"


@pytest.mark.parametrize(("answer", "said", "complete"), [("y" * 30, "y" * 8, False), ("yy", "yy", True)])
def test_an_answer_without_thoughts_keeps_its_limit(answer, said, complete):
    policy = served("qwen3", answer, generation={"thought_tokens": 50, "max_tokens": 8})
    _, turn, _ = play(policy)
    assert (turn.text, turn.complete, turn.num_thoughts) == (said, complete, 0)


def test_code_in_a_thought_ends_no_turn_and_code_behind_it_does():
    answer = f"{thought('qwen3', CODE)}{CODE}\nDone"
    generation = {"thought_tokens": 60, "max_tokens": 60}
    policy = served("qwen3", answer, generation=generation, find_end=find_code_end, pauses=PAUSES)
    _, turn, _ = play(policy)
    assert (turn.text, turn.num_added, turn.complete) == (CODE, 1, True)
    assert text(policy, turn.token_ids[: turn.num_thoughts]) == thought("qwen3", CODE)


@pytest.mark.parametrize("said", ["hm", "x" * 60], ids=["short", "longer than the answer may be"])
def test_an_answer_goes_on_where_it_pauses_however_long_its_thoughts_are(said):
    answer = f"{thought('qwen3', said)}{CODE}\nDone"
    generation = {"thought_tokens": 100, "max_tokens": 40}
    policy = served("qwen3", answer, generation=generation, find_end=find_code_end, pauses=PAUSES)
    _, turn, _ = play(policy)
    assert (turn.text, turn.num_added, turn.complete) == (CODE, 1, True)


def test_a_turn_of_nothing_but_a_cut_thought_is_no_action():
    policy = served("qwen3", "<think>\nAction: look", ended=False, generation={"max_tokens": 10})
    opening, turn, history = play(policy)
    assert (turn.text, turn.complete, turn.num_thoughts) == ("", False, 10)
    assert text(policy, history.token_ids[len(opening.token_ids) :]).startswith("<|im_end|>")


def test_room_is_needed_for_thought_and_answer():
    policy = served("qwen3", "go", window=100, generation={"thought_tokens": 50, "max_tokens": 40})
    with pytest.raises(ContextOverflow, match="leafe.generation.thought_tokens"):
        play(policy)
    assert not policy.client.asked


JSON = '{"step": 1, "experience": "count"}'


def reflect(policy):
    async def look_back():
        return await policy.reflect(await policy.begin([TASK]), reflection_schema(1, 40), "reflection 0/0")

    return asyncio.run(look_back())


class TestReflections:
    @pytest.fixture(autouse=True)
    def vllm(self):
        pytest.importorskip("vllm", reason="vllm is not installed")

    def grammars(self, policy):
        return ["structured_outputs" in params for _, params in policy.client.asked]

    @pytest.mark.parametrize("name", MODELS)
    def test_the_grammar_begins_behind_the_thought(self, name):
        policy = served(name, f"{thought(name)}{JSON}", grammar=True, generation={"thought_tokens": 50})
        turn = reflect(policy)
        assert (turn.text, self.grammars(policy)) == (JSON, [False, True])

    def test_an_answer_without_thoughts_is_sampled_anew_under_the_grammar(self):
        policy = served("qwen3", "Well, I guess", JSON, grammar=True, generation={"thought_tokens": 50})
        assert (reflect(policy).text, self.grammars(policy)) == (JSON, [False, True])

    def test_without_a_limit_of_its_own_a_thought_that_the_prompt_opens_has_no_grammar(self):
        policy = served("r1", f"{thought('r1')}{JSON}", grammar=True)
        assert (reflect(policy).text, self.grammars(policy)) == (JSON, [False])

    def test_without_a_limit_of_its_own_other_models_answer_at_once(self):
        policy = served("qwen3", JSON, grammar=True)
        assert (reflect(policy).text, self.grammars(policy)) == (JSON, [True])


@pytest.mark.parametrize(("template", "dropped"), [(QWEN3, True), (DEEPSEEK_R1, True), (CHATML, False)])
def test_what_a_template_does_with_earlier_thoughts_is_said(template, dropped):
    family = next(each for each in (*FAMILIES.values(), SPELLED) if each.template == template)
    chat = ask_tokenizer(make_tokenizer(family), model_type=family.model_type)
    assert ("leaves out the thoughts of earlier turns" in chat.describe()) == dropped
