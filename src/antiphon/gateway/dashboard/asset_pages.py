"""The page *Assets*: the graph of what is made of what, as a drawing whose boxes are links and as a table, with what is
stale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast
from urllib.parse import urlencode

from starlette.responses import Response

from antiphon.core.errors import NotFoundError
from antiphon.gateway.dashboard.lineage_pages import HEIGHT, WIDTH, drawn
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.services.conducting.assets import AssetDetail, AssetLine
from antiphon.services.lineage.graph import LineageEdge, LineageGraph
from antiphon.services.lineage.nodes import LineageNode, NodeKind

MOST_BOXES = 120
"""Assets that are drawn at most: a drawing of more cannot be read."""

MOST_LINES = 200
"""Assets, and parts of one, that a table shows at most."""


def assets(call: PageCall) -> Response:
    """Shows all assets, those that are stale, or one with its parts and everything around it."""
    of, stale = call.query.get("of", "").strip(), call.query.get("stale") == "1"
    found = call.services.work.assets(call.scope)
    every = {one.key: one for one in found.list()}
    detail: AssetDetail | None = None
    problem: NotFoundError | None = None
    try:
        detail = found.show(of) if of else None
    except NotFoundError as error:
        problem = error
    shown = [one for one in every.values() if not stale or one.stale]
    near = list(_around(every, detail)) if detail is not None else shown
    boxes = near if len(near) <= MOST_BOXES else [one for one in near if one.stage != "current"][:MOST_BOXES]
    return call.render(
        "assets.html",
        problem,
        page="assets",
        of=of,
        stale=stale,
        detail=detail,
        total=len(every),
        waiting=sum(one.stale for one in every.values()),
        lines=shown[:MOST_LINES],
        shown=len(shown),
        near=len(near),
        boxes=len(boxes),
        stages={one.key: one.stage for one in boxes},
        drawn=drawn(_graph(boxes, of), _link),
        box=(WIDTH, HEIGHT),
        most=MOST_LINES,
    )


def _around(every: Mapping[str, AssetLine], detail: AssetDetail) -> Iterator[AssetLine]:
    """The asset, everything that it is made of and everything that is made of it, inputs first."""
    kept = {detail.asset.key, *detail.descendants}
    waiting = [*detail.asset.reads]
    while waiting:
        key = waiting.pop()
        if key not in kept:
            kept.add(key)
            waiting += every[key].reads if key in every else ()
    return (one for one in every.values() if one.key in kept)


def _graph(shown: Sequence[AssetLine], of: str) -> LineageGraph:
    nodes = {one.key: _node(one) for one in shown}
    edges = tuple(LineageEdge(nodes[key].id, nodes[one.key].id) for one in shown for key in one.reads if key in nodes)
    return LineageGraph((nodes[of].id,) if of in nodes else (), tuple(nodes.values()), edges)


def _node(line: AssetLine) -> LineageNode:
    return LineageNode(cast(NodeKind, line.kind), line.key, line.key.partition("/")[2])


def _link(node: LineageNode) -> str:
    return f"/assets?{urlencode({'of': node.name})}"
