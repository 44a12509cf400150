"""How many of Ray's cores a run of verl reserves. They are logical: nothing computes on more of them than there are."""

RANK_CPUS = 3
"""Ray's cores that verl reserves beside each GPU (`max_colocate_count` in verl/single_controller/ray/base.py)."""
OTHER_CPUS = 10
"""Ray's cores for what else a run starts: TransferQueue's controller and its eight storage units, and one to place
actors that reserve none."""


def ray_cpus(gpus: int) -> int:
    """Return Ray's cores for a new cluster: those that it would count, or more where verl would wait for them."""
    from ray._private.utils import get_num_cpus

    return max(int(get_num_cpus()), RANK_CPUS * int(gpus) + OTHER_CPUS)
