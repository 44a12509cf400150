"""Orders of nodes in which each edge leads forward."""

from networks.build import Network, reverse


def in_order(network: Network) -> list[str] | None:
    """Return the nodes so that each comes after those before it, the alphabet deciding; None if there is a circle."""
    left = {node: len(before) for node, before in reverse(network).items()}
    ready = sorted(node for node, number in left.items() if number == 0)
    order: list[str] = []
    while ready:
        node = ready.pop(0)
        order.append(node)
        for target in network[node]:
            left[target] -= 1
            if left[target] == 0:
                ready.append(target)
        ready.sort()
    return order if len(order) == len(network) else None


def levels(network: Network) -> dict[str, int]:
    """Return node -> number of edges on the longest way to it. Raises ValueError if there is a circle."""
    order = in_order(network)
    if order is None:
        raise ValueError("there is a circle")
    found = dict.fromkeys(order, 0)
    for node in order:
        for target in network[node]:
            found[target] = max(found[target], found[node] + 1)
    return found


def finish_times(network: Network, durations: dict[str, int]) -> dict[str, int]:
    """Return when each task ends if it begins once all before it have ended."""
    before = reverse(network)
    ends: dict[str, int] = {}
    for node in in_order(network) or []:
        start = max((ends[each] for each in before[node]), default=0)
        ends[node] = start + durations[node]
    return ends
