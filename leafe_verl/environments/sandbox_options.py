"""Options that the environments have in common which run code in the sandbox."""

from __future__ import annotations

from leafe_verl.environments.options import require_at_least, require_whole
from leafe_verl.sandbox import Limits, Sandbox, default_pool

LEAST_MEMORY_MB = 64
"""An interpreter does not start with less."""
OUTPUT_KB = Limits.output_bytes // 2**10


def choose_sandbox(
    sandbox: Sandbox | None, sandbox_workers: int | None, allow_unconfined: bool, *, with_folder: bool = False
) -> Sandbox:
    """Return the given sandbox, or the pool of these options. Raises ValueError that names the option that is wrong."""
    if sandbox_workers is not None:
        require_whole(1, sandbox_workers=sandbox_workers)
    return sandbox or default_pool(sandbox_workers, allow_unconfined, with_folder=with_folder)


def run_limits(
    cpu_seconds: float,
    memory_mb: int,
    wall_seconds: float = Limits.wall_seconds,
    output_kb: int = OUTPUT_KB,
) -> Limits:
    """Return the limits of one run; memory in MiB and output in KiB. Raises ValueError that names a wrong option."""
    require_at_least(0.1, cpu_seconds=cpu_seconds, wall_seconds=wall_seconds)
    require_whole(LEAST_MEMORY_MB, memory_mb=memory_mb)
    require_whole(1, output_kb=output_kb)
    return Limits(cpu_seconds, wall_seconds, memory_mb * 2**20, output_kb * 2**10)
