"""Walking, layering and writing graphs, over neighbors written by hand."""

from __future__ import annotations

from tests.unit.services.lineage.records import SCOPE

from antiphon.core.scope import Scope
from antiphon.services.lineage.graph import LineageGraph, dot, layers, outline, walk
from antiphon.services.lineage.neighbors import LineageStep
from antiphon.services.lineage.nodes import LineageNode

UP = {"pred": ["rel", "snap"], "rel": ["view"], "view": ["snap"], "snap": ["src"], "other": ["src"]}


def node(name: str) -> LineageNode:
    return LineageNode("view", name, f"the {name}")


class Written:
    """Neighbors of a graph that is written down upstream."""

    def __init__(self, up: dict[str, list[str]]) -> None:
        self._up = up

    def upstream(self, scope: Scope, here: LineageNode) -> list[LineageStep]:
        return [LineageStep(node(name), f"run of {here.name}") for name in self._up.get(here.name, [])]

    def downstream(self, scope: Scope, here: LineageNode) -> list[LineageStep]:
        return [LineageStep(node(name)) for name, of in self._up.items() if here.name in of]


def graph(begin: str, direction: str = "both", up: dict[str, list[str]] = UP, most: int = 100) -> LineageGraph:
    return walk(Written(up), SCOPE, [node(begin)], direction, most)  # type: ignore[arg-type]


def names(found: LineageGraph) -> set[str]:
    return {one.name for one in found.nodes}


def test_upstream_of_an_answer_is_all_that_it_was_made_from_once() -> None:
    found = graph("pred", "upstream")
    assert names(found) == {"pred", "rel", "snap", "view", "src"}
    assert len(found.edges) == 5
    assert [edge.run for edge in found.before("view:rel")] == ["run of rel"]
    assert found.after("view:snap") != ()


def test_siblings_have_no_part_in_a_node() -> None:
    assert names(graph("rel")) == {"rel", "view", "snap", "src", "pred"}, "other is made of the same source"
    assert "other" in names(graph("src"))
    assert names(graph("rel", "downstream")) == {"rel", "pred"}


def test_a_walk_is_bounded_and_says_so() -> None:
    found = graph("pred", most=3)
    assert (len(found.nodes), found.cut_off) == (3, True)
    assert all({edge.source, edge.target} <= {one.id for one in found.nodes} for edge in found.edges)
    assert "there is more" in "\n".join(outline(found))
    assert not graph("pred").cut_off


def test_every_edge_leads_to_a_later_layer() -> None:
    found = graph("pred")
    place = {one.id: at for at, column in enumerate(layers(found)) for one in column}
    assert all(place[edge.source] < place[edge.target] for edge in found.edges)
    assert [one.name for one in layers(found)[0]] == ["src"]
    assert sum(map(len, layers(found))) == len(found.nodes)


def test_a_cycle_ends() -> None:
    found = graph("a", up={"a": ["b"], "b": ["a"]})
    assert names(found) == {"a", "b"}
    assert sum(map(len, layers(found))) == 2
    assert len(list(outline(found))) == 3


def test_an_outline_says_what_it_comes_from_and_by_which_run() -> None:
    lines = list(outline(graph("rel")))
    assert lines[0] == "view the rel"
    assert "  from view the view  by run of rel" in lines
    assert "    from view the snap  by run of view" in lines
    assert "  into view the pred" in lines


def test_graphviz_gets_quoted_texts() -> None:
    found = graph('a "quoted" \\ name')
    assert r'label="view\nthe a \"quoted\" \\ name"' in dot(found)
