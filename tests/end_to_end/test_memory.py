"""Memory of the driver and of a rollout worker stays flat; memory.py has the long run."""

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.memory import growth, measure

pytestmark = [pytest.mark.end_to_end, pytest.mark.costly]

MOST_MIB = 24.0


def test_memory_stays_flat(tmp_path):
    for name, sizes in measure(tmp_path, steps=80).items():
        early, late = growth(sizes)
        assert late - early < MOST_MIB, (name, sizes)
