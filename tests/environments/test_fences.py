"""Where an answer with code is over: a table of answers, with `@` where each is to be cut."""

from __future__ import annotations

import time

import pytest

from leafe_verl.environments.fences import PAUSES, find_code_end, parse

DEFINITION = "def f(x):\n    return x + 1\n"
BLOCK = f"```python\n{DEFINITION}```"

OVER = {
    "a block alone": f"{BLOCK}@",
    "explained afterwards": f"{BLOCK}@\n\nThis adds one. Here is a test:\n```python\nassert f(1) == 2\n```",
    "introduced": f"Here is the code:\n\n{BLOCK}@\nDone.",
    "without a language": f"```\n{DEFINITION}```@\n",
    "another name of the language": f"``` Pyrex \n{DEFINITION}```\n{BLOCK.replace('python', 'PYTHON title=x')}@",
    "a version of the language": f"``` Py3 \n{DEFINITION}```@\n{BLOCK}",
    "two blocks": f"{BLOCK}@\nor\n{BLOCK}",
    "a broken block before it": f"```python\ndef f(x:\n```\nSorry:\n{BLOCK}@",
    "imports before it": f"First\n```python\nimport math\n```\nthen\n{BLOCK}@",
    "a usage in prose before it": f"```text\nf(1)\n```\n{BLOCK}@",
    "a block that is not closed before it": f"```python\ndef f(x:\n{BLOCK}@",
    "a program without definitions": "```python\nn = int(input())\nprint(n)\n```@\nIt prints n.",
    "a call alone": "```python\nprint(input())\n```@",
    "a fence in a docstring": '```python\ndef f(x):\n    """Add.\n```\n>>> f(1)\n```\n    """\n    return x + 1\n```@',
    "two fences in a docstring": '```python\ndef f(x):\n    """\n```\n1\n```\nthen\n```\n2\n```\n    """\n```@',
    "an indented fence in a docstring": '```python\ndef f(x):\n    """Add.\n    ```\n    f(1)\n    ```\n    """\n```@',
    "an indented block": f"1. So:\n   ```python\n   {DEFINITION.replace(chr(10), chr(10) + '   ')}```@\n2. Done",
    "line ends of Windows": f"{BLOCK}@\nDone.".replace("\n", "\r\n"),
    "blanks behind the fence": f"{BLOCK}@  \nDone.",
    "more backticks than were opened": f"{BLOCK}`@\n",
    "four backticks around three": "````python\ns = '''\n```\n'''\n````@\n",
    "a word between broken blocks": f"```python\ndef f(x:\n```\nthen\n```\n{DEFINITION}```@",
    "after a thought": f"<think>Perhaps\n{BLOCK}\nno</think>\n{BLOCK}@\n",
    "a fence left open in a thought": f"<think>Perhaps\n```python\nf(</think>\n{BLOCK}@\n",
    "Markdown that shows code, then code": f"````markdown\n{BLOCK}\n````\n{BLOCK}@",
    "a tagged fence in a docstring": '```python\ndef f(x):\n    """Add.\n```python\nf(1)\n```\n    """\n```@',
    "a fragment before it": f"The line\n```python\n    return x\n```\nis wrong:\n{BLOCK}@",
    "tildes before it": f"~~~\n{BLOCK}\n~~~\n{BLOCK}@",
}
GOES_ON = {
    "nothing": "",
    "prose": "I would add one to x.",
    "a fragment with a break": "Stop there:\n```python\nif total > n:\n    break\n```\n",
    "an opening fence": "Here:\n```python",
    "an opening fence without a language": "Here:\n```",
    "a block that is not closed": f"```python\n{DEFINITION}",
    "half a closing fence": f"```python\n{DEFINITION}``",
    "a closing fence with a word behind it": f"```python\n{DEFINITION}```python",
    "a closing fence inside a line": f"```python\n{DEFINITION}x ```",
    "a block that does not compile": "```python\ndef f(x:\n    return x\n```\n",
    "imports alone": "```python\nimport math\nfrom os import path\n```\n",
    "a comment alone": "```python\n# the code\n```\n",
    "an empty block": "```python\n```\n",
    "a word": "```\nexample\n```\n",
    "another language": f"```java\n{DEFINITION}```\n```c++\nint f;\n```",
    "tildes": f"~~~python\n{DEFINITION}~~~\n",
    "fewer backticks than were opened": f"````python\n{DEFINITION}```\n",
    "Markdown that shows code": f"````markdown\n{BLOCK}\n",
    "a thought that is not over": f"<think>Perhaps\n{BLOCK}\nor",
    "a second thought that is not over": f"<think>a</think> b <think>\n{BLOCK}\n",
    "a fence in a docstring that is not closed": '```python\ndef f(x):\n    """Add.\n```\n>>> f(1)\n```\n',
    "a null character": "```python\nf('\0')\n```\n",
    "nested too deeply": f"```python\n{'(' * 5000}{')' * 5000}\n```\n",
}


@pytest.mark.parametrize("name", OVER)
def test_an_answer_is_over_behind_the_fence_that_closes_a_program(name):
    marked = OVER[name]
    answer = marked.replace("@", "")
    assert answer[: find_code_end(answer)] + "@" == marked[: marked.index("@") + 1]


@pytest.mark.parametrize("name", OVER)
def test_it_is_over_as_soon_as_that_fence_is_there_and_no_sooner(name):
    answer, _, _ = OVER[name].partition("@")
    assert find_code_end(answer) == len(answer)
    if not answer.endswith("````"):  # which ends with a shorter one
        assert all(find_code_end(answer[:end]) is None for end in range(len(answer)))
    assert any(pause in answer[-8:] for pause in PAUSES), "vLLM would not have paused there"


@pytest.mark.parametrize("name", GOES_ON)
def test_an_answer_goes_on(name):
    assert find_code_end(GOES_ON[name]) is None


def test_a_thought_that_the_prompt_opened():
    thought = f"Perhaps\n{BLOCK}\nor"
    assert find_code_end(thought, in_thought=True) is None
    answer = f"{thought}</think>\n\n{BLOCK}"
    assert find_code_end(f"{answer}\nDone", in_thought=True) == len(answer)


@pytest.mark.parametrize("line", ["```\n", "```python\n", "```python\nx(\n```\n", "~~~\n", "`" * 50 + "\n"])
def test_an_answer_of_nothing_but_fences_takes_no_time(line):
    begun = time.perf_counter()
    assert find_code_end(line * 5000) is None
    assert time.perf_counter() - begun < 5, "a second at most, on a busy machine too"


NESTED = "".join(f"{' ' * depth}try: pass\n{' ' * depth}finally:\n" for depth in range(18)) + " " * 18 + "x\n"
"""To compile it would take 2**18 times as long as to compile the innermost statement."""


@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("for x in y:\n    if x: break\n    continue\nelse: pass\n", True),
        ("while x:\n    def f():\n        return 1\n    break\n", True),
        ("async def f():\n    async for x in y:\n        await x\n        continue\n", True),
        ("class A:\n    def f(self): return 1\n", True),
        ("break\n", False),
        ("if x:\n    continue\n", False),
        ("for x in y: pass\nelse: break\n", False),
        ("for x in y:\n    def f():\n        break\n", False),
        ("class A:\n    return 1\n", False),
        ("return 1\n", False),
        (
            "".join(" " * depth + line for depth in range(18) for line in NESTED.splitlines(True)) + " " * 18 + "x\n",
            True,
        ),
    ],
)
def test_code_that_leaves_what_it_is_not_in_is_no_program(code, whole):
    assert (parse(code) is not None) == whole
