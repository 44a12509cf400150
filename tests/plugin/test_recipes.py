"""The recipes: small differences, and nothing that only this checkout has."""

import subprocess
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_recipes_differ_in_at_most_fifteen_lines():
    diff = subprocess.run(["diff", RECIPES / "leafe_mbpp.sh", RECIPES / "grpo_mbpp.sh"], capture_output=True, text=True)
    assert 0 < len(diff.stdout.splitlines()) <= 15


def test_every_script_parses():
    scripts = sorted(RECIPES.glob("*.sh"))
    assert len(scripts) >= 4
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0, script
