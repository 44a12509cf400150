"""verl's merger without its rounding: `python -m leafe_verl.exact_merger merge ...`.

verl rounds every weight of a checkpoint to bfloat16 (model_merger/fsdp_model_merger.py). That is what inference servers
that compute in bfloat16 get anyway, but not those of a run in float32: `evaluate` would measure other weights than
training has validated. The merger has no setting for it.
"""

from __future__ import annotations

import runpy

import torch


def main() -> None:
    torch.Tensor.bfloat16 = lambda self: self  # type: ignore[method-assign, assignment]
    runpy.run_module("verl.model_merger", run_name="__main__")


if __name__ == "__main__":
    main()
