"""A kind of fault: its class, the components to blame, whom it hits, and what ends it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from antiphon.catalog.incidents import IncidentClass

ENGINE, GATEWAY, WORKER, HOST, CATALOG, STORE = (
    "engine/engine", "gateway", "worker", "host", "catalog", "online-store",
)  # fmt: skip

Felt = Literal["users", "data", "nobody"]
"""Of which impact a kind is: on users' requests, on data that is not renewed, or none at all."""

Ends = Literal["platform", "injector"]
"""``platform``: the injector undoes nothing, and only the platform can mend it. ``injector``: it ends by itself."""


class FaultKind(msgspec.Struct, frozen=True):
    """A kind of fault, and the truth about it.

    Attributes:
        seconds: for which it lasts; of an act at one moment those for which it is waited.
        roots: the components to blame, exactly; none for cases without a cause.
        simulated: the kind of ``incidents.py`` that is the same, for the simulator's error.
        own_disk: the project has a small file system of its own, which the fault fills.
    """

    name: str
    class_: IncidentClass
    roots: frozenset[str]
    seconds: float = 30.0
    felt: Felt = "users"
    ends: Ends = "injector"
    simulated: str = ""
    own_disk: bool = False

    @property
    def innocent(self) -> bool:
        """Nothing of the platform is to blame."""
        return not self.roots


def fault_kind(name: str, class_: IncidentClass, *roots: str, **more: Any) -> FaultKind:
    """A kind with its roots one after another."""
    return FaultKind(name, class_, frozenset(roots), **more)
