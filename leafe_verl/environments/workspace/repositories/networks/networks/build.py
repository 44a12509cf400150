"""Networks, which map each node to its successors and the lengths of the edges to them."""

Network = dict[str, dict[str, int]]


def build(edges: list[tuple[str, str, int]]) -> Network:
    """Return the network of edges (from, to, length). Of several between two nodes, the shortest is kept."""
    network: Network = {}
    for source, target, length in edges:
        network.setdefault(target, {})
        known = network.setdefault(source, {})
        known[target] = min(length, known.get(target, length))
    return network


def reverse(network: Network) -> Network:
    """Return the network with all edges turned around."""
    turned: Network = {node: {} for node in network}
    for source, targets in network.items():
        for target, length in targets.items():
            turned[target][source] = length
    return turned


def sources(network: Network) -> list[str]:
    """Return the nodes that no edge leads to, in the order of the alphabet."""
    return sorted(node for node, before in reverse(network).items() if not before)


def degree(network: Network, node: str) -> tuple[int, int]:
    """Return the numbers of edges that lead to a node and away from it."""
    return len(reverse(network)[node]), len(network[node])
