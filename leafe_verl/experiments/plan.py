"""The choices of a comparison, read from environment variables as `recipes/compare_mbpp.sh` documents them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISTILLED = {
    "reh_matched": ("preset=paper", "leafe.distillation.control=rehearsal"),
    "lcf": ("preset=paper", "leafe.distillation.rehearsal_share=0"),
    "dpo": ("preset=paper", "leafe.distillation.loss=dpo", "leafe.distillation.rehearsal_share=0"),
    "leafe": ("preset=paper",),
    "kl": ("preset=paper", "leafe.distillation.loss=kl"),
    "kl_nll": ("preset=paper", "leafe.distillation.loss=kl", "leafe.distillation.kl_share=0.5"),
    "recovery": ("preset=recommended",),
    "reh_recovery": ("preset=recommended", "leafe.distillation.control=rehearsal"),
}
"""Methods that differ in what is trained on: the overrides of stage 2, on one store of trees. `reh_matched` has the
volume of `leafe`, and `reh_recovery` that of `recovery`."""
METHODS = ("base", "grpo", *DISTILLED, "leafe_rl", "ace", "early_experience")
FEW = ("lcf", "dpo", "ace", "reh_recovery", "early_experience")
"""Methods that are evaluated with fewer attempts."""
AFTER_GRPO = ("leafe_rl", "ace")
"""Methods that begin with what GRPO trained."""
UNTRAINED = ("base", "ace")
"""Methods without a learning rate of their own."""


@dataclass(frozen=True)
class Plan:
    """The choices of one comparison."""

    run_dir: Path
    source: str
    """Task file, or data set on the hub, that the tasks are drawn from."""
    model: str | None
    """Hugging Face folder or hub name; None: the configuration's own."""
    methods: tuple[str, ...]
    """Names of `METHODS`, `base` first."""
    seeds: tuple[int, ...]
    """Training seeds. Each has an exploration of its own."""
    rates: tuple[str, ...]
    """Learning rates to choose from on the development tasks; one is taken as it is, and none leaves the default."""
    sizes: Mapping[str, int]
    """Numbers of tasks: `train`, `dev` and `held_out`."""
    split_seed: int
    attempts: Mapping[str, int]
    """Attempts at each task: `all` held-out ones, of `few` methods, at a `dev` task, and from a `given` history."""
    budget: int
    """Environment steps of one task's tree."""
    batch: int
    """Tasks of one step of LEAFE."""
    small_batch: int
    """Tasks of one step of GRPO, Early Experience and ACE, in whose steps their budget is counted."""
    overrides: tuple[str, ...]
    """Hydra's, for every training and evaluation."""

    def __post_init__(self) -> None:
        if self.sizes["train"] % (2 * self.batch):
            raise ValueError(f"TRAIN_TASKS is {self.sizes['train']}; expected a multiple of 2 x BATCH={self.batch}")

    @property
    def decisive(self) -> dict[str, Any]:
        """The choices that all cells of a comparison share, as JSON takes them. The tasks are checked by themselves."""
        sizes = {"BUDGET": self.budget, "BATCH": self.batch, "BATCH_EPISODES": self.small_batch}
        return {"MODEL": self.model, **sizes, "overrides": [*self.overrides]}

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return "grpo" if "grpo" in self.methods else "base"

    @classmethod
    def read(cls, variables: Mapping[str, str], overrides: Sequence[str]) -> Plan:
        """Read the choices. Raises ValueError for a variable that is not what it should be."""
        number = _Numbers(variables)
        return cls(
            run_dir=Path(variables["RUN_DIR"]).expanduser().absolute(),
            source=variables["MBPP"],
            model=variables.get("MODEL") or None,
            methods=_read_methods(variables.get("METHODS") or "grpo reh_matched lcf dpo leafe leafe_rl recovery ace"),
            seeds=_read_seeds(variables.get("SEEDS") or "0"),
            rates=_read_rates(variables.get("RATES") or ""),
            sizes={"train": number("TRAIN_TASKS"), "dev": number("DEV_TASKS"), "held_out": number("TASKS")},
            split_seed=number("SPLIT_SEED", 0),
            attempts={
                "all": number("ATTEMPTS"),
                "few": number("ATTEMPTS_FEW"),
                "dev": number("ATTEMPTS_DEV"),
                "given": number("ATTEMPTS_GIVEN", 0),
            },
            budget=number("BUDGET"),
            batch=number("BATCH"),
            small_batch=number("BATCH_EPISODES"),
            overrides=tuple(overrides),
        )


def _read_methods(text: str) -> tuple[str, ...]:
    """Return the methods with `base` first, since the others go on from its failures."""
    named = text.split()
    if unknown := sorted({*named} - {*METHODS}):
        raise ValueError(f"METHODS names {', '.join(unknown)}; expected some of {', '.join(METHODS)}")
    return ("base", *dict.fromkeys(name for name in named if name != "base"))


def _read_seeds(text: str) -> tuple[int, ...]:
    named = text.split()
    if not named or len({*named}) < len(named) or not all(each.isdecimal() for each in named):
        raise ValueError(f"SEEDS is {text!r}; expected different integers of at least 0, as in SEEDS='0 1'")
    return tuple(map(int, named))


def _read_rates(text: str) -> tuple[str, ...]:
    """Return the rates as they were written, since they are part of the cells' names."""
    if not all(_is_rate(each) for each in text.split()):
        raise ValueError(f"RATES is {text!r}; expected learning rates above 0, as in RATES='1e-6 1e-5'")
    return tuple(text.split())


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


@dataclass(frozen=True)
class _Numbers:
    variables: Mapping[str, str]

    def __call__(self, name: str, least: int = 1) -> int:
        text = self.variables.get(name, "")
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"{name} is {text!r}; expected an integer of at least {least}")
        return int(text)
