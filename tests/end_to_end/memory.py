"""Memory of the driver and of a rollout worker over many steps of a run with a scripted model.

python tests/end_to_end/memory.py FOLDER --steps 200 --most 16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from end_to_end.launch import launch
from end_to_end.tiny_model import make_tiny_model

PROCESSES = ("driver", "rollout_worker")
RUN = [
    "trainer.v1.trainer_mode=leafe_scripted",
    "trainer.total_epochs=1000",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
]


def measure(folder: Path, steps: int) -> dict[str, list[float]]:
    """Run and return the resident memory of each process after each step, in MiB."""
    model = make_tiny_model(folder / "model")
    metrics = launch(
        "leafe", model, folder, *RUN, f"trainer.total_training_steps={steps}", module="end_to_end.scripted"
    )
    return {name: [metrics[step][f"memory/{name}"] for step in range(1, steps + 1)] for name in PROCESSES}


def growth(sizes: list[float]) -> tuple[float, float]:
    """The means of an eighth of the steps, after the first quarter and at the end."""
    quarter, eighth = len(sizes) // 4, len(sizes) // 8
    return sum(sizes[quarter : quarter + eighth]) / eighth, sum(sizes[-eighth:]) / eighth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run; new")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--most", type=float, default=16.0, help="growth in MiB, beyond which the exit status is 1")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    status = 0
    for name, sizes in measure(options.folder.resolve(), options.steps).items():
        early, late = growth(sizes)
        print(f"{name}: {early:.1f} MiB early, {late:.1f} MiB at the end of {options.steps} steps; {late - early:+.1f}")
        status |= late - early > options.most
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
