"""verl's merger without its rounding: `python -m leafe_verl.exact_merger merge ...`.

verl rounds every weight of a checkpoint to bfloat16 (model_merger/fsdp_model_merger.py). That is what inference servers
that compute in bfloat16 get anyway, but not those of a run in float32: `evaluate` would measure other weights than
training has validated. The merger has no setting for it.
"""

from __future__ import annotations

import runpy
from typing import Any

import torch


def main() -> None:
    """Run verl's merger with the arguments of this process."""
    torch.Tensor.bfloat16 = _as_it_is  # type: ignore[method-assign, assignment]
    runpy.run_module("verl.model_merger", run_name="__main__")


def _as_it_is(tensor: Any, *_: Any) -> Any:
    return tensor


if __name__ == "__main__":
    main()
