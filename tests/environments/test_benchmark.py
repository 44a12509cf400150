"""The table of what environments cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import environments as benchmark


def test_a_measurement_goes_into_the_readme_and_ends_with_a_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n\n{benchmark.MARKS[0]}\nold\n{benchmark.MARKS[1]}\n\nAfter.\n")
    for _ in range(2):
        benchmark.main(["sokoban", "--steps", "3", "--repeats", "2", "--into", str(readme)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["sokoban"]
    assert tuple(figures) == benchmark.COLUMNS and 0 < figures["steps restored"] <= 3
    text = readme.read_text()
    assert text.startswith("Before.\n") and text.endswith("After.\n") and "old" not in text
    assert text.count("| `sokoban` |") == 1 and "load average before and after" in text


def test_an_environment_that_cannot_be_played_keeps_its_row() -> None:
    rows = benchmark.table({"chess": {"missing": "Skipped: a | b"}, "go": dict.fromkeys(benchmark.COLUMNS, 1234.5)})
    assert {row.count("|") for row in rows} == {len(benchmark.COLUMNS) + 2}
    assert "a / b" in rows[2] and "1234" in rows[3]
    assert [*map(benchmark.shown, (-0.1, 0, 0.0001, 0.0123, 45.67))] == ["0", "0", "< 0.01", "0.0123", "45.7"]


def test_a_file_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        benchmark.between_marks("text", [])
