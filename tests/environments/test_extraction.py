"""Which code of an answer is judged, and why: answers to a task whose tests call `f`, and programs."""

from __future__ import annotations

import time

import pytest

from environments.test_fences import GOES_ON, OVER
from leafe_verl.environments.codecontests import CodeContests
from leafe_verl.environments.extraction import Choice, extract_function, extract_program
from leafe_verl.environments.fences import is_program
from leafe_verl.environments.mbpp import MBPP
from leafe_verl.environments.mbpp import extract as extract_for_mbpp

F, G = "def f(x):\n    return x + 1\n", "class G:\n    pass\n"
DOCUMENTED = 'def f(x):\n    """Add.\n\n```python\nf(1)\n```\n    """\n    return x + 1\n'
EXAMPLES = (
    'def f(x):\n    """\n    Example:\n    ```\n    f(1)\n    ```\n    ```python\n    f(2)\n    ```\n    """\n'
    "    return x\n"
)
GUARDED = "try:\n    from math import f\nexcept ImportError:\n    def f(x): pass\n"
BLANKS = 'def f(x):\n    return """\n   \n"""\n'
BROKEN = "def f(x)\n    return x\n"
CUT = "def f(x):\n    return (1,"
TEST = "def test_f():\n    assert f(1) == 2\n"


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


FUNCTIONS: dict[str, tuple[str, str, Choice]] = {
    "a block alone": (block(F), F, Choice.DEFINES_ALL),
    "a test after it": (block(F) + "Test:\n" + block(TEST), F, Choice.DEFINES_ALL),
    "a test before it": (block(TEST) + block(F), F, Choice.DEFINES_ALL),
    "a test that imports it": (block(F) + block(f"from solution import f\n{TEST}"), F, Choice.DEFINES_ALL),
    "a usage after it": (block(F) + block("print(f(1))\n"), F, Choice.DEFINES_ALL),
    "another class after it": (block(F) + block(G), F, Choice.DEFINES_ALL),
    "a correction": (block(F) + "Better:\n" + block(F + "# best\n"), F + "# best\n", Choice.DEFINES_ALL),
    "a correction that is cut": (block(F) + f"```python\n{CUT}", F, Choice.DEFINES_ALL),
    "a correction that is broken": (block(F) + block(BROKEN), F, Choice.DEFINES_ALL),
    "a lambda": (block("f = lambda x: x\n") + block(TEST), "f = lambda x: x\n", Choice.DEFINES_ALL),
    "from the library": (
        block("from math import gcd as f\n") + block(TEST),
        "from math import gcd as f\n",
        Choice.DEFINES_ALL,
    ),
    "under a condition": (block(GUARDED) + block(TEST), GUARDED, Choice.DEFINES_ALL),
    "without a language": (block(F, "") + block(TEST), F, Choice.DEFINES_ALL),
    "a language beats none": (block(F) + block("def f(x): ...\n", ""), F, Choice.DEFINES_ALL),
    "a version": (block(F, "Python 3.11") + block(TEST, "python3"), F, Choice.DEFINES_ALL),
    "attributes": (block(F, "{.python .numberLines}") + block(TEST), F, Choice.DEFINES_ALL),
    "another language": (block(F) + block("int f;\n", "c++") + block("python f.py\n", "bash"), F, Choice.DEFINES_ALL),
    "a fence in a docstring": (block(DOCUMENTED) + "It adds.", DOCUMENTED, Choice.DEFINES_ALL),
    "fences in a docstring, indented": (block(EXAMPLES) + block(TEST), EXAMPLES, Choice.DEFINES_ALL),
    "a fence in a docstring, no fence around": (DOCUMENTED, DOCUMENTED, Choice.WHOLE_ANSWER),
    "a fence in a docstring, not closed": (f"```python\n{DOCUMENTED}", DOCUMENTED, Choice.DEFINES_ALL),
    "a string that is never closed": (f'```python\ndef f(x):\n    """Add.\n{block(F)}', F, Choice.DEFINES_ALL),
    "not closed": (f"So:\n```python\n{F}", F, Choice.DEFINES_ALL),
    "closed in the last line": (f"```python\n{F.rstrip()}```", F.rstrip(), Choice.DEFINES_ALL),
    "an unclosed block before it": (f"```python\ndef f(x:\n{block(F)}", F, Choice.DEFINES_ALL),
    "far indented": (f"1. So:\n       {block(F).replace(chr(10), chr(10) + '       ')}", F, Choice.DEFINES_ALL),
    "in Markdown": (f"```markdown\n# Answer\n{block(F)}```\n", F, Choice.DEFINES_ALL),
    "between tildes": (f"~~~python\n{F}~~~\n", F, Choice.DEFINES_ALL),
    "a text with blanks": (block(BLANKS), BLANKS, Choice.DEFINES_ALL),
    "after a thought": (f"<think>\n{block(F + '# no')}</think>\n{block(F)}", F, Choice.DEFINES_ALL),
    "in a thought alone": (f"<think>\n{block(F)}", "", Choice.NOTHING),
    "a broken one and a test": (block(BROKEN) + block(TEST), BROKEN, Choice.BROKEN_DEFINITION),
    "not closed before prose": (f"```python\n{F}\nIt adds one.\n\nReally.", F, Choice.DEFINES_ALL),
    "cut": (f"So:\n```python\n{CUT}", CUT, Choice.BROKEN_DEFINITION),
    "another name": (block("def g(x): return x\n") + block("g(1)\n"), "def g(x): return x\n", Choice.DEFINES_OTHERS),
    "a method of that name": (
        block("class S:\n    def f(self, x): return x\n"),
        "class S:\n    def f(self, x): return x\n",
        Choice.DEFINES_OTHERS,
    ),
    "no definition": (block("a = 1\n") + block("a = 2\n"), "a = 2\n", Choice.OTHER),
    "imports alone": (block("import math\n"), "import math\n", Choice.BROKEN),
    "no fence": (F, F, Choice.WHOLE_ANSWER),
    "prose": ("I would add one.", "I would add one.", Choice.WHOLE_ANSWER),
    "between tags": (f"[PYTHON]\n{F}[/PYTHON]", F, Choice.WHOLE_ANSWER),
    "between MBPP's own marks": (f"[BEGIN]\n{F}[DONE]\n", F, Choice.WHOLE_ANSWER),
    "between tags of XML": (f"<answer>\n<code>\n{F}</code>\n</answer>", F, Choice.WHOLE_ANSWER),
    "behind words": (f"Here is the code:\n\n{F}", F, Choice.WHOLE_ANSWER),
    "before words": (f"{F}This returns it, plus one.\n", F, Choice.WHOLE_ANSWER),
    "between words that begin as code does": (
        f"from your words I take this.\nif so:\n{F}print is not needed.\n",
        F,
        Choice.WHOLE_ANSWER,
    ),
    "an empty block": ("```python\n```", "", Choice.NOTHING),
    "imports in a block before it": (
        block("import math\n") + "then\n" + block("def f(x): return math.floor(x)\n"),
        "import math\n\ndef f(x): return math.floor(x)\n",
        Choice.DEFINES_ALL,
    ),
    "helpers in blocks before it": (
        block("K = 2\n") + block("def h(x): return x * K\n") + block("print(1)\n") + block("def f(x): return h(x)\n"),
        "K = 2\n\ndef h(x): return x * K\n\ndef f(x): return h(x)\n",
        Choice.DEFINES_ALL,
    ),
    "an import of the future behind a helper": (
        block("K = 2\n") + block("from __future__ import annotations\ndef f(x: int): return K * x\n"),
        "from __future__ import annotations\nK = 2\n\npass\ndef f(x: int): return K * x\n",
        Choice.DEFINES_ALL,
    ),
    "an import of the future over several lines, behind words": (
        block("from __future__ import division\nK = 2\n")
        + block("'\u00fc'; from __future__ import (\n    annotations,\n); a = 1\ndef f(x): return K * x\n"),
        "from __future__ import division, annotations\npass\nK = 2\n\n"
        "'\u00fc'; pass; a = 1\n\n\ndef f(x): return K * x\n",
        Choice.DEFINES_ALL,
    ),
    "an import of the future in a block before it": (
        block("from __future__ import annotations\nK = 2\n") + block("def f(x): return K * x\n"),
        "from __future__ import annotations\nK = 2\n\ndef f(x): return K * x\n",
        Choice.DEFINES_ALL,
    ),
    "its signature after it": (block(F) + block("def f(x): ...\n"), F, Choice.DEFINES_ALL),
    "a template after it": (block(F) + block("def f(x):\n    # Your code\n    pass\n"), F, Choice.DEFINES_ALL),
    "a documented template after it": (
        block(F) + block("def f(x):\n    'Add.'\n    raise NotImplementedError('later')\n"),
        F,
        Choice.DEFINES_ALL,
    ),
    "a usage that names it again": (
        block(F) + block("from solution import f\nf = f\nprint(f(2))\n"),
        F,
        Choice.DEFINES_ALL,
    ),
    "a class without bodies after it": (
        block("class f:\n    def g(self): return 1\n") + block("class f:\n    def g(self): ...\n"),
        "class f:\n    def g(self): return 1\n",
        Choice.DEFINES_ALL,
    ),
    "a stub and a definition in one block": (block(f"def f(x): ...\n{F}"), f"def f(x): ...\n{F}", Choice.DEFINES_ALL),
    "a stub alone": (block("def f(x): ...\n") + block(TEST), "def f(x): ...\n", Choice.STUB),
    "a stub and a broken one": (block(BROKEN) + block("def f(x): ...\n"), BROKEN, Choice.BROKEN_DEFINITION),
    "a helper after it": (
        block("def f(x): return h(x)\n") + block("def h(x): return x\n"),
        "def f(x): return h(x)\n",
        Choice.DEFINES_ALL,
    ),
    "a fence": ("```", "", Choice.NOTHING),
    "another language alone": (block("int f;\n", "c"), "", Choice.NOTHING),
    "nothing": (" \n", "", Choice.NOTHING),
    "a fence behind words": (f"Here is the code:```python\n{F}```\n", F, Choice.DEFINES_ALL),
    "a fence behind a bold title": (f"**Solution:** {block(F)}It adds.", F, Choice.DEFINES_ALL),
    "the opening fence forgotten": (f"{F}```", F, Choice.DEFINES_ALL),
    "the opening fence forgotten, words behind": (f"{F}```\nThis adds one.", F, Choice.DEFINES_ALL),
    "called code": (block(F, "code"), F, Choice.DEFINES_ALL),
    "called code of a tool": (block(F, "tool_code"), F, Choice.DEFINES_ALL),
    "a version behind a hyphen": (block(F, "python-3.10"), F, Choice.DEFINES_ALL),
    "behind an unclosed block of a shell": (f"```bash\npip install x\n\n{block(F)}", F, Choice.DEFINES_ALL),
    "behind a line of tildes": (f"~~~~~~\n{block(F)}", F, Choice.DEFINES_ALL),
    "between tildes, a usage after it": (f"~~~\n{F}~~~\n{block('print(f(1))')}", F, Choice.DEFINES_ALL),
    "in an item of a list, a usage after it": (
        f"1. Write it:\n\n    ```python\n    def f(x): return 1\n    ```\n\n{block('print(f(1))')}",
        "def f(x): return 1\n",
        Choice.DEFINES_ALL,
    ),
    "words with a fence and no code": ("Use ``` around it.\n```text\nf adds\n```", "", Choice.NOTHING),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_block_that_defines_what_the_tests_call_is_judged(name: str) -> None:
    answer, code, choice = FUNCTIONS[name]
    extraction = extract_function(answer, frozenset({"f"}))
    assert (extraction.code, extraction.choice) == (code, choice)


def test_all_that_the_tests_call_beats_a_part_of_it() -> None:
    both = extract_function(block(F + G) + block(F), frozenset({"f", "G"}))
    assert (both.code, both.choice) == (F + G, Choice.DEFINES_ALL)
    some = extract_function(block(F) + block("def h(): pass\n"), frozenset({"f", "G"}))
    assert (some.code, some.choice) == (F, Choice.DEFINES_SOME)


def test_names_of_hidden_asserts_choose_no_block() -> None:
    row = {"task_id": 1, "text": "Add.", "test_list": ["assert f(1) == 2"], "challenge_test_list": ["assert h(1) == 2"]}
    extraction = extract_for_mbpp(block(F) + block("def h(x): return 2\n"), MBPP.task(row).data)
    assert (extraction.code, extraction.choice) == (F, Choice.DEFINES_ALL)


@pytest.mark.parametrize("name", OVER)
def test_what_an_answer_is_cut_to_holds_the_code_that_is_judged(name: str) -> None:
    cut, _, _ = OVER[name].partition("@")
    assert is_program(extract_program(cut).code)


@pytest.mark.parametrize("name", GOES_ON)
def test_every_answer_gives_some_code_or_none(name: str) -> None:
    for extraction in (extract_program(GOES_ON[name]), extract_function(GOES_ON[name], frozenset({"f"}))):
        assert bool(extraction.code.strip()) == (extraction.choice is not Choice.NOTHING)


# --- Programs ---

SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
MAIN = "import sys\ndef main():\n    sys.stdout.write(sys.stdin.read())\nif __name__ == '__main__':\n    main()\n"
GLOBAL = "def main():\n    global n\n    n = int(input())\n    solve()\ndef solve():\n    print(n * 2)\nmain()\n"
PROGRAMS: dict[str, tuple[str, str, Choice]] = {
    "a block alone": (block(SUM), SUM, Choice.READS_AND_WRITES),
    "a better one after it": (block(SUM) + "Faster:\n" + block(MAIN), MAIN, Choice.READS_AND_WRITES),
    "one that is cut after it": (block(SUM) + "```python\nimport sys\nprint((", SUM, Choice.READS_AND_WRITES),
    "a test after it": (block(MAIN) + block("assert main() is None\nprint('ok')\n"), MAIN, Choice.READS_AND_WRITES),
    "a test that imports it": (
        block(MAIN) + block("from solution import main\nmain()\nprint(input())\n"),
        MAIN,
        Choice.READS_AND_WRITES,
    ),
    "what it prints after it": (block(SUM) + block("print(1 + 2)  # 3\n"), SUM, Choice.READS_AND_WRITES),
    "input and output after it": (block(SUM) + block("1 2\n", "") + block("YES\n", ""), SUM, Choice.READS_AND_WRITES),
    "a fragment after it": (block(SUM) + "The line\n" + block("return a + b\n"), SUM, Choice.READS_AND_WRITES),
    "a function after it": (block(SUM) + block("def add(a, b):\n    return a + b\n"), SUM, Choice.READS_AND_WRITES),
    "without input": (block("print(42)\n"), "print(42)\n", Choice.WRITES),
    "without output": (block("n = 1\n"), "n = 1\n", Choice.COMPLETE),
    "with a name from elsewhere": (block("print(np.sum([1]))\n"), "print(np.sum([1]))\n", Choice.RUNS),
    "with all names of a module": (
        block("from math import *\nprint(floor(float(input())))\n"),
        "from math import *\nprint(floor(float(input())))\n",
        Choice.READS_AND_WRITES,
    ),
    "a function and then its call": (
        block("def f(x): return x + 1\n") + block("print(f(int(input())))\n"),
        "def f(x): return x + 1\n\nprint(f(int(input())))\n",
        Choice.RUNS,
    ),
    "a function that nobody calls": (block("def f(): print(input())\n"), "def f(): print(input())\n", Choice.OTHER),
    "broken": (block("print(input()\n"), "print(input()\n", Choice.BROKEN),
    "a docstring with a fence": (
        block(f'"""Read.\n```\n1 2\n```\n"""\n{SUM}'),
        f'"""Read.\n```\n1 2\n```\n"""\n{SUM}',
        Choice.READS_AND_WRITES,
    ),
    "a global name, an example after it": (
        block(GLOBAL) + "For instance\n" + block("n = 5\nprint(n * 2)\n"),
        GLOBAL,
        Choice.READS_AND_WRITES,
    ),
    "a fragment with a break after it": (
        block(SUM) + block("n = int(input())\nprint(n)\nbreak\n"),
        SUM,
        Choice.READS_AND_WRITES,
    ),
    "no fence": (SUM, SUM, Choice.WHOLE_ANSWER),
    "no fence, between words": (f"Solution:\n{SUM}Done.", SUM, Choice.WHOLE_ANSWER),
    "nothing": ("", "", Choice.NOTHING),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_last_complete_program_is_judged(name: str) -> None:
    answer, code, choice = PROGRAMS[name]
    extraction = extract_program(answer)
    assert (extraction.code, extraction.choice) == (code, choice)


# --- In the environments ---


def test_the_environments_say_which_code_they_judged_and_why() -> None:
    row = {"task_id": 1, "text": "Add.", "test_list": ["assert f(1) == 2"]}
    problem = {"name": "A", "description": "Add.", "public_tests": {"input": ["1 2"], "output": ["3"]}}
    for environment, own, answer, code, choice in (
        (MBPP(), row, block(F) + block(TEST), F, "defines_all"),
        (CodeContests(), problem, block(SUM) + block("print(3)\n"), SUM, "reads_and_writes"),
    ):
        environment.reset(environment.task(own), seed=0)
        step = environment.step(answer)
        assert step.info["success"] and (step.info["action"], step.info["choice"]) == (code, choice)


def test_scopes_may_be_nested_deeper_than_calls() -> None:
    nested = "f = " + "lambda: " * 1200 + "0\n"
    assert extract_function(block(nested), frozenset({"f"})).choice is Choice.DEFINES_ALL


FENCES = ("```\n", "```python\n", "```python\nx(\n```\n", '```python\n"""\n```\n', "~~~\n", "`" * 50)


@pytest.mark.parametrize("line", [*FENCES, "def f(:\n", "x = (\n", "if x:\n", "[BEGIN]\n"])
def test_an_answer_of_nothing_but_fences_takes_no_time(line: str) -> None:
    begun = time.perf_counter()
    assert not is_program(extract_program(line * 5000).code)
    assert time.perf_counter() - begun < 10, "a second at most, on a busy machine too"
