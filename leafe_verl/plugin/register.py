"""Entry points: what verl and vLLM load in every process of a run.

verl swallows what a plugin raises while it loads (verl/__init__.py logs it at DEBUG level), so nothing here can
fail for a reason of ours; `leafe-verl check` loads it again inside a Ray worker and shows what happened.
"""

from __future__ import annotations


def vllm_plugin() -> None:
    """Entry point of group `vllm.general_plugins`: let vLLM's CPU build take new weights."""
    from leafe_verl.plugin.vllm_cpu import keep_weights

    keep_weights()


def _register() -> None:
    from leafe_verl.plugin import cpu, vllm_cpu

    cpu.select_platform()
    vllm_cpu.name_distribution()
    from leafe_verl.plugin import trainer  # noqa: F401 - importing it registers the trainer modes


_register()
