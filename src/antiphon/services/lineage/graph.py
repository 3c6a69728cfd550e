"""The graph from sources to answers: walked over the catalog from a few nodes, upstream to what they were made from and
downstream to what was made of them.

Invariants: edges point the way the data goes; a walk is bounded by nodes and says when it was cut off; a node holds
names, ids and counts, and nothing of an entity, a question or an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from antiphon.core.scope import Scope
from antiphon.services.lineage.neighbors import LineageNeighbors
from antiphon.services.lineage.nodes import LineageNode

MOST_NODES = 300

Direction = Literal["upstream", "downstream", "both"]


class LineageEdge(msgspec.Struct, frozen=True, order=True):
    """An edge between the ids of two nodes; ``run`` is the run that made the later one, where it is known."""

    source: str
    target: str
    run: str | None = None


class LineageGraph(msgspec.Struct, frozen=True):
    """Nodes and edges, both in the order in which they were found from ``begins``.

    ``cut_off``: there are more nodes than are walked at most.
    """

    begins: tuple[str, ...]
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    cut_off: bool = False

    def node(self, id: str) -> LineageNode:
        """A node by its id; raises ``KeyError`` when there is none."""
        return {one.id: one for one in self.nodes}[id]

    def before(self, id: str) -> tuple[LineageEdge, ...]:
        """Edges that lead to a node."""
        return tuple(edge for edge in self.edges if edge.target == id)

    def after(self, id: str) -> tuple[LineageEdge, ...]:
        """Edges that lead away from a node."""
        return tuple(edge for edge in self.edges if edge.source == id)


def walk(
    neighbors: LineageNeighbors,
    scope: Scope,
    begins: Sequence[LineageNode],
    direction: Direction = "both",
    most: int = MOST_NODES,
) -> LineageGraph:
    """The graph of everything that these nodes come from, or went into.

    What is upstream of something downstream is left out, and the other way around: it has no part in them.
    """
    nodes = {one.id: one for one in begins}
    edges: dict[tuple[str, str], LineageEdge] = {}
    cut_off = False
    for name, step in (("upstream", neighbors.upstream), ("downstream", neighbors.downstream)):
        if direction not in (name, "both"):
            continue
        waiting, seen = deque(begins), {one.id for one in begins}
        while waiting:
            here = waiting.popleft()
            for found in step(scope, here):
                if found.node.id not in nodes and len(nodes) >= most:
                    cut_off = True
                    continue
                nodes.setdefault(found.node.id, found.node)
                ends = (found.node.id, here.id) if name == "upstream" else (here.id, found.node.id)
                if ends[0] != ends[1]:
                    edges.setdefault(ends, LineageEdge(*ends, found.run))
                if found.node.id not in seen:
                    seen.add(found.node.id)
                    waiting.append(found.node)
    return LineageGraph(tuple(one.id for one in begins), tuple(nodes.values()), tuple(edges.values()), cut_off)


def layers(graph: LineageGraph) -> list[list[LineageNode]]:
    """The nodes in columns, so that every edge leads to a later one; of the longest way from a source."""
    depth = dict.fromkeys((node.id for node in graph.nodes), 0)
    for _ in graph.nodes:
        moved = False
        for edge in graph.edges:
            # A cycle would end with the loop: it is drawn backwards.
            if depth[edge.target] <= depth[edge.source] < len(graph.nodes):
                depth[edge.target], moved = depth[edge.source] + 1, True
        if not moved:
            break
    used = {value: place for place, value in enumerate(sorted(set(depth.values())))}
    columns: list[list[LineageNode]] = [[] for _ in used]
    for node in graph.nodes:
        columns[used[depth[node.id]]].append(node)
    return columns


def dot(graph: LineageGraph) -> str:
    """The graph in Graphviz's language, from left to right."""
    lines = ["digraph lineage {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    lines += [f"  {_quoted(one.id)} [label={_quoted(one.kind + chr(10) + one.label)}];" for one in graph.nodes]
    lines += [_edge(edge) for edge in graph.edges]
    return "\n".join([*lines, "}"])


def outline(graph: LineageGraph) -> Iterable[str]:
    """Lines of an indented list: what the first nodes come from, then what came of them."""
    for begin in graph.begins:
        node = graph.node(begin)
        yield f"{node.kind} {node.label}"
        yield from _branch(graph, begin, "from", 1, {begin})
        yield from _branch(graph, begin, "into", 1, {begin})
    if graph.cut_off:
        yield f"… there is more: {len(graph.nodes)} nodes are shown at most."


def _branch(graph: LineageGraph, id: str, way: Literal["from", "into"], depth: int, path: set[str]) -> Iterable[str]:
    for edge in graph.before(id) if way == "from" else graph.after(id):
        other = edge.source if way == "from" else edge.target
        if other in path:
            continue
        node = graph.node(other)
        by = f"  by {edge.run}" if edge.run else ""
        yield f"{'  ' * depth}{way} {node.kind} {node.label}{by}"
        yield from _branch(graph, other, way, depth + 1, path | {other})


def _edge(edge: LineageEdge) -> str:
    label = f" [label={_quoted(edge.run)}]" if edge.run else ""
    return f"  {_quoted(edge.source)} -> {_quoted(edge.target)}{label};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
