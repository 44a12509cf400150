"""Small chat templates that make the demands of well-known families, and tokenizers for them, made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m['content'] %}"
    "{% if m['role'] == 'assistant' %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}"
    "{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
LLAMA31 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}"
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}{% endfor %}"
)
GEMMA2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + _ALTERNATES
    + "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    + _ALTERNATES
    + "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (system if loop.first else '') + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
    + _ALTERNATES
    + "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.last else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
PHI35 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
QWQ = CHATML.replace("m['content']", "m['content'].split('</think>')[-1].lstrip('\n')").replace(
    "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"
)
DEEPSEEK_V31 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜></think>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)
GLM45 = (
    "[gMASK]<sop>{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}"
    "{% if '</think>' in m['content'] and loop.index0 > ns.last %}"
    "{{ '<think>' + m['content'].split('</think>')[0].split('<think>')[-1].strip() + '</think>\n' }}"
    "{% else %}{{ '<think></think>\n' }}{% endif %}{% endif %}"
    "{{ m['content'].split('</think>')[-1].strip() }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA4 = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|turn>' + role + '\n' }}{% if m['role'] == 'system' and enable_thinking %}{{ '<|think|>' }}{% endif %}"
    "{{ m['content'].split('<channel|>')[-1] | trim + '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"
)
COMMAND_A = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + m['role'] | upper + '_TOKEN|>' }}"
    "{% if m['role'] == 'assistant' %}"
    "{{ '<|START_RESPONSE|>' + m['content'].split('<|END_THINKING|>')[-1].strip() + '<|END_RESPONSE|>' }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|ASSISTANT_TOKEN|>' }}{% endif %}"
)
GPT_OSS = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|channel|>final' }}{% endif %}"
    "{{ '<|message|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
KIMI_K3 = (
    "{% for m in messages %}{{ '<|open|>message role=\"' + m['role'] + '\"<|sep|>' }}"
    "{% if m['role'] == 'assistant' %}{{ '<|open|>response<|sep|>' + m['content'] + '<|close|>response<|sep|>' }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|close|>message<|sep|><|end_of_msg|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|open|>message role=\"assistant\"<|sep|><|open|>think<|sep|>' }}{% endif %}"
)
APRIEL = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\nHere are my reasoning steps:\n")
GRANITE32 = "{% if thinking %}{{ 'Write after \"Here is my thought process:\"' }}{% endif %}" + CHATML
QWEN25_TOOLS = (
    "{% set first = messages[0]['content'] if messages[0]['role'] == 'system' else 'You are helpful.' %}"
    "{{ '<|im_start|>system\n' + first }}"
    "{% if tools %}{{ '\n\n# Tools' }}{% for t in tools %}{{ '\n' }}{{ t | tojson }}{% endfor %}"
    "{{ '\nCall them within <tool_call></tool_call>.' }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{% if messages[loop.index0 - 1]['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m['content'] + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif m['tool_calls'] %}{{ '<|im_start|>assistant' }}{% for c in m['tool_calls'] %}"
    "{{ '\n<tool_call>\n{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' }}"
    "{{ c['function']['arguments'] | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif not (loop.first and m['role'] == 'system') %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA31_TOOLS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' + ('Environment: ipython\n' if tools else '') }}"
    "{{ system + '<|eot_id|>' }}"
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{{ m['content'] | tojson }}{{ '<|eot_id|>' }}"
    "{% elif m['tool_calls'] %}"
    "{% if m['tool_calls'] | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"' + m['tool_calls'][0]['function']['name'] }}"
    "{{ '\", \"parameters\": ' }}{{ m['tool_calls'][0]['function']['arguments'] | tojson }}{{ '}<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{% if loop.first and tools %}{% for t in tools %}{{ t | tojson }}{{ '\n\n' }}{% endfor %}{% endif %}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
WITHOUT_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: "
ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('one turn alone') }}{% endif %}" + CHATML


@dataclass(frozen=True)
class Family:
    """A template with the special tokens of its tokenizer."""

    template: str | None
    special: tuple[str, ...]
    bos: str | None
    eos: str
    thoughts: tuple[str, ...] = ()
    """Added tokens that are not special, as <think> in Qwen3."""
    model_type: str = "llama"
    end: str = field(default="")
    """The template's own end of turn, where it is not the eos."""
    options: dict[str, object] = field(default_factory=dict)


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_PHI = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
_THINK = ("<think>", "</think>")
_GLM = ("[gMASK]", "<sop>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>")
_GEMMA4 = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>")
_COMMAND = (
    "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>",
    "<|ASSISTANT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>",
)  # fmt: skip
_OSS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
_KIMI = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")

FAMILIES = {
    "qwen2.5": Family(WITH_DEFAULT_SYSTEM, _IM, None, "<|im_end|>", model_type="qwen2"),
    "qwen2.5-base": Family(WITH_DEFAULT_SYSTEM, _IM, None, "<|endoftext|>", model_type="qwen2", end="<|im_end|>"),
    "qwen3": Family(QWEN3, _IM, None, "<|im_end|>", _THINK, "qwen3"),
    "qwen3-no-thoughts": Family(QWEN3, _IM, None, "<|im_end|>", _THINK, "qwen3", options={"enable_thinking": False}),
    "llama3.1": Family(LLAMA31, _LLAMA, "<|begin_of_text|>", "<|eot_id|>"),
    "gemma2": Family(GEMMA2, _GEMMA, "<bos>", "<eos>", model_type="gemma2", end="<end_of_turn>"),
    "gemma3": Family(GEMMA3, _GEMMA, "<bos>", "<eos>", model_type="gemma3_text", end="<end_of_turn>"),
    "mistral": Family(MISTRAL, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", model_type="mistral"),
    "phi3.5": Family(PHI35, _PHI, "<s>", "<|endoftext|>", model_type="phi3", end="<|end|>"),
    "smollm2": Family(WITH_DEFAULT_SYSTEM, _IM, "<|im_start|>", "<|im_end|>"),
    "deepseek-r1": Family(DEEPSEEK_R1, _DEEPSEEK, _DEEPSEEK[0], _DEEPSEEK[1], _THINK, "qwen2"),
    "qwq": Family(QWQ, _IM, None, "<|im_end|>", _THINK, "qwen2"),
    "deepseek-v3.1": Family(DEEPSEEK_V31, _DEEPSEEK, *_DEEPSEEK[:2], _THINK, "deepseek_v3", options={"thinking": True}),
    "deepseek-v3.1-no-thoughts": Family(DEEPSEEK_V31, _DEEPSEEK, *_DEEPSEEK[:2], _THINK, "deepseek_v3"),
    "glm4.5": Family(GLM45, _GLM, None, "<|endoftext|>", _THINK, "glm4_moe", end="<|user|>"),
    "gemma4": Family(GEMMA4, _GEMMA4, "<bos>", "<eos>", (), "gemma4", "<turn|>", {"enable_thinking": True}),
    "gemma4-no-thoughts": Family(GEMMA4, _GEMMA4, "<bos>", "<eos>", model_type="gemma4", end="<turn|>"),
    "command-a": Family(COMMAND_A, _COMMAND, *_COMMAND[:3:2], model_type="cohere2", end="<|END_RESPONSE|>"),
}
UNSUPPORTED = {
    "gpt-oss": Family(GPT_OSS, _OSS, None, "<|return|>", model_type="gpt_oss"),
    "Kimi K3": Family(KIMI_K3, _KIMI, None, "<|end_of_msg|>", model_type="kimi_k3"),
    "Apriel": Family(APRIEL, _IM, None, "<|im_end|>"),
    "Granite 3.2": Family(GRANITE32, _IM, None, "<|im_end|>", options={"thinking": True}),
}
"""Families whose thoughts are told apart in other ways than by two tags."""

TOOL_FAMILIES = {
    "hermes": Family(QWEN25_TOOLS, _IM, None, "<|im_end|>", ("<tool_call>", "</tool_call>"), model_type="qwen2"),
    "llama3_json": Family(LLAMA31_TOOLS, _LLAMA, "<|begin_of_text|>", "<|eot_id|>"),
}
"""Form of calls to a family whose template has a place for tools."""


def make_tokenizer(family: Family, *, sentencepiece: bool = False):
    """Return a tokenizer of single bytes, byte-level as GPT-2's, or with a blank before each text as Llama 2's."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend = _sentencepiece(family.special) if sentencepiece else _byte_level(family.special)
    names = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.eos}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in names.items() if v})
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.special)})
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.thoughts])
    tokenizer.chat_template = family.template
    return tokenizer


def _byte_level(special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *letters])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(special):
    """A line break is two tokens: the blank before it, and its byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = ["\N{LOWER ONE EIGHTH BLOCK}", *(chr(code) for code in range(33, 127))]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(pieces)}, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\N{LOWER ONE EIGHTH BLOCK}"), normalizers.Replace(" ", "\N{LOWER ONE EIGHTH BLOCK}")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def write_model(folder, name: str = "llama3.1"):
    """Write a folder that looks like a model, with a tokenizer that can be loaded, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(FAMILIES[name]).save_pretrained(folder)
    (folder / "config.json").write_text(f'{{"model_type": "{FAMILIES[name].model_type}"}}')
    (folder / "model.safetensors").write_text("{}")
    return folder
