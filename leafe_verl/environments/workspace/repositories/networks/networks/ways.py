"""Lengths of ways."""

import heapq

from networks.build import Network


def lengths_from(network: Network, start: str) -> dict[str, int]:
    """Return the length of the shortest way to each node that can be reached."""
    found: dict[str, int] = {}
    waiting = [(0, start)]
    while waiting:
        length, node = heapq.heappop(waiting)
        if node in found:
            continue
        found[node] = length
        for target, more in network[node].items():
            if target not in found:
                heapq.heappush(waiting, (length + more, target))
    return found


def shortest_way(network: Network, start: str, end: str) -> list[str] | None:
    """Return the nodes on the shortest way; None if there is none."""
    found = lengths_from(network, start)
    if end not in found:
        return None
    way = [end]
    while way[-1] != start:
        here = way[-1]
        way.append(
            min(node for node in found if here in network[node] and found[node] + network[node][here] == found[here])
        )
    return way[::-1]


def farthest(network: Network, start: str) -> tuple[str, int]:
    """Return the node that is farthest away, and its distance; the first in the alphabet if several are."""
    found = lengths_from(network, start)
    node = min(found, key=lambda each: (-found[each], each))
    return node, found[node]


def within(network: Network, start: str, most: int) -> list[str]:
    """Return the nodes that are not farther away than `most`, without the start."""
    return sorted(node for node, length in lengths_from(network, start).items() if length <= most and node != start)
