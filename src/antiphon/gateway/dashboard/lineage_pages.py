"""The page *Lineage*: the graph from sources to answers, as a drawing whose boxes are links, and as a list."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from antiphon.core.errors import NotFoundError
from antiphon.gateway.admin.lineage import readable_graph
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.services.lineage.graph import LineageGraph, layers
from antiphon.services.lineage.nodes import LineageNode

WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 200, 44, 60, 14, 6
"""Of a box, the gaps between boxes, and the margin, in the units of the drawing."""

LETTERS, VERSION = 24, 8
"""Letters of a name that fit into a box, and of a definition version; the whole is in its title and in the list."""

_DETAILS = {"prediction": "/requests/{}", "model": "/models/{}"}
"""Pages about single nodes."""

_LINKED = frozenset(
    ("run", "prediction", "release", "model", "view", "snapshot", "dataset", "evaluation", "safety-report", "job")
)
"""Kinds of nodes that the graph is shown of."""


class DrawnNode(msgspec.Struct, frozen=True):
    """A box of the drawing; ``link`` leads to the graph around it."""

    node: LineageNode
    x: int
    y: int
    words: str
    link: str | None
    begins: bool


class DrawnGraph(msgspec.Struct, frozen=True):
    """The drawing: boxes, and edges as paths with the run that made them."""

    width: int
    height: int
    boxes: tuple[DrawnNode, ...]
    paths: tuple[tuple[str, str], ...]


class LinkedNode(msgspec.Struct, frozen=True):
    """A line of the list: a node, and the nodes it comes from with the runs that made it."""

    node: LineageNode
    link: str | None
    details: str | None
    came_from: tuple[tuple[LineageNode, str | None, str | None], ...]


def lineage(call: PageCall) -> Response:
    """Shows the graph around what the address names, or of everything behind the live releases."""
    of = call.query.get("of", "").strip() or None
    graph = LineageGraph((), (), ())
    problem: NotFoundError | None = None
    try:
        graph = readable_graph(call, of)
    except NotFoundError as error:
        problem = error
    return call.render(
        "lineage_graph.html", problem, page="runs", of=of, graph=graph, drawn=drawn(graph, link), lines=lines(graph),
        box=(WIDTH, HEIGHT),
    )  # fmt: skip


def drawn(graph: LineageGraph, link: Callable[[LineageNode], str | None]) -> DrawnGraph:
    """The graph from left to right: sources first, each column below each other. ``link`` says where a box leads."""
    columns = layers(graph)
    places: dict[str, tuple[int, int]] = {}
    for across, column in enumerate(columns):
        for down, node in enumerate(column):
            places[node.id] = (EDGE + across * (WIDTH + ACROSS), EDGE + down * (HEIGHT + DOWN))
    boxes = tuple(
        DrawnNode(node, *places[node.id], _words(node), link(node), node.id in graph.begins)
        for column in columns
        for node in column
    )
    paths = tuple((_path(places[one.source], places[one.target]), one.run or "") for one in graph.edges)
    height = max((y for _, y in places.values()), default=0) + HEIGHT + EDGE
    return DrawnGraph(max(1, len(columns)) * (WIDTH + ACROSS) - ACROSS + 2 * EDGE, height, boxes, paths)


def lines(graph: LineageGraph) -> tuple[LinkedNode, ...]:
    """The same as a list, latest first: each node with what it comes from."""
    return tuple(
        LinkedNode(
            node,
            link(node),
            _DETAILS[node.kind].format(quote(node.name)) if node.kind in _DETAILS else None,
            tuple((graph.node(edge.source), link(graph.node(edge.source)), edge.run) for edge in graph.before(node.id)),
        )
        for column in reversed(layers(graph))
        for node in column
    )


def link(node: LineageNode) -> str | None:
    """The address of the graph around a node; ``None`` where there is none."""
    return f"/lineage?{urlencode({'of': node.name})}" if node.kind in _LINKED else None


def _words(node: LineageNode) -> str:
    """The part of a label that fits; the first digits of a version tell it from others in a drawing."""
    view, at, version = node.label.partition("@")
    label = f"{view}@{version[:VERSION]}" if at and node.kind in ("view", "snapshot") else node.label
    return label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"


def _path(source: tuple[int, int], target: tuple[int, int]) -> str:
    x, y = source[0] + WIDTH, source[1] + HEIGHT // 2
    end_x, end_y = target[0], target[1] + HEIGHT // 2
    bend = max(ACROSS // 2, (end_x - x) // 2)
    return f"M{x} {y} C{x + bend} {y} {end_x - bend} {end_y} {end_x} {end_y}"
