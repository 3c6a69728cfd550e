"""The topology of a project: sources act on views, views and engines on applications, hosts on all; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from antiphon.definitions.degradation import MAIN
from antiphon.definitions.project import ProjectSpec

HOST, CATALOG, GATEWAY, WORKER, ONLINE_STORE, DEFINITIONS, ACCESS = (
    "host", "catalog", "gateway", "worker", "online-store", "definitions", "access"
)  # fmt: skip
APPLICATIONS = "applications"
"""All applications together, and requests that name none."""

LINK = f"link/{MAIN}"
"""The way between the gateways and the main engine."""

MAIN_ENGINE = f"engine/{MAIN}"
"""The engine of the section ``[engine]`` as gateways know it, whichever processes answer for it."""

REFRESHES = ("refresh", "backfill")


class Topology(msgspec.Struct, frozen=True):
    """Components with what each acts on: edges go from cause to effect.

    Attributes:
        effects: component to those that it acts on.
        sources: view to its source.
        engines: those that answer for all applications.
    """

    effects: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str] = {}
    engines: tuple[str, ...] = ()

    def reached(self, component: str) -> dict[str, tuple[str, ...]]:
        """The shortest path to each component that this one acts on, itself included."""
        paths: dict[str, tuple[str, ...]] = {component: (component,)}
        waiting = deque([component])
        while waiting:
            here = waiting.popleft()
            for other in self.effects.get(here, ()):
                if other not in paths:
                    paths[other] = (*paths[here], other)
                    waiting.append(other)
        return paths

    @property
    def applications(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.effects if name.startswith("application/")))


def topology_of(project: ProjectSpec, engines: Iterable[str], workflows: Iterable[str]) -> Topology:
    """The topology of what is applied.

    Args:
        engines: components of engines that have told something of late.
        workflows: names of those of which runs were attempted.
    """
    edges: dict[str, set[str]] = {}

    def act(cause: str, *on: str) -> None:
        edges.setdefault(cause, set()).update(on)
        for one in on:
            edges.setdefault(one, set())

    listed = tuple(sorted(engines)) or ("engine/engine",)
    names = sorted({*workflows, *REFRESHES})
    runs = [f"workflow/{name}" for name in names]
    act(HOST, CATALOG, GATEWAY, WORKER, ONLINE_STORE, *listed)
    act(CATALOG, GATEWAY, WORKER)
    act(WORKER, *runs)
    act(ONLINE_STORE, *(f"workflow/{name}" for name in REFRESHES))
    act(GATEWAY, APPLICATIONS, LINK)
    act(HOST, LINK)
    act(ACCESS, GATEWAY)
    sources = {}
    for name, view in project.views.items():
        kind = "stream" if view.source.kind == "stream" else "source"
        sources[f"view/{name}"] = source = f"source/{view.source.name}"
        act(source, f"view/{name}")
        act(WORKER, f"view/{name}")
        act(ONLINE_STORE, f"view/{name}")
        act(DEFINITIONS, f"view/{name}")
        act(f"view/{name}", *(f"workflow/{one}" for one in REFRESHES))
        if kind == "stream":
            act(source, f"stream/{view.source.name}")
            act(WORKER, f"stream/{view.source.name}")
            act(f"stream/{view.source.name}", f"view/{name}")
    for name, application in project.applications.items():
        component = f"application/{name}"
        act(f"release/{name}", component)
        act(DEFINITIONS, f"release/{name}")
        act(GATEWAY, component)
        act(LINK, component)
        act(component, APPLICATIONS)
        act(ONLINE_STORE, component)
        for feature_view in application.features:
            act(f"view/{feature_view}", component)
        for engine in listed:
            act(engine, component)
    for engine in listed:
        act(engine, LINK)
        act(engine, *(f"workflow/{name}" for name in names if name not in REFRESHES))
        if engine != MAIN_ENGINE:
            act(engine, MAIN_ENGINE)
    return Topology({cause: tuple(sorted(on)) for cause, on in sorted(edges.items())}, sources, listed)
