"""One instance as a process that routes knows it: its client, and how much is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineDescription, EngineInstance, EngineLoad, Priority
from antiphon.engine.routing.placement import InstanceLoad


class Route:
    """A joined instance and the way to it.

    Attributes:
        joined: listed in the catalog; one that is not gets no new requests.
        reachable: false since it failed, until a probe finds it.
        probing: whether a probe is under way.
    """

    def __init__(self, instance: EngineInstance, client: EngineClient) -> None:
        self.instance = instance
        self.client = client
        self.joined = True
        self.reachable = True
        self.probing = False
        self._own: dict[Priority, int] = {"online": 0, "batch": 0}
        self._others: dict[Priority, int] = {"online": 0, "batch": 0}

    @property
    def in_flight(self) -> int:
        """Requests of this process that are in the instance."""
        return sum(self._own.values())

    @property
    def open(self) -> bool:
        """True if new requests may be given to it."""
        return self.joined and not self.instance.drained

    @property
    def shown(self) -> EngineInstance:
        """The instance as it is shown to people."""
        return replace(self.instance, answers=self.reachable)

    def report(self, instance: EngineInstance) -> None:
        """Take over what the instance says of itself in the catalog."""
        self.instance = instance
        self._count(instance.load)

    def described(self, description: EngineDescription) -> None:
        """Take over what the instance says when it is asked."""
        self.instance = replace(
            self.instance,
            models={model.name: model.fingerprint for model in description.models},
            embedders={model.name: model.fingerprint for model in description.embedders},
            load=description.load,
        )
        self._count(description.load)

    def _count(self, load: EngineLoad) -> None:
        # What is there besides our own requests is other processes'. Ours are known to the moment.
        self._others = {
            "online": max(0, load.running_online + load.waiting_online - self._own["online"]),
            "batch": max(0, load.running_batch + load.waiting_batch - self._own["batch"]),
        }

    def serves(self, model: str) -> bool:
        """True if it was said to serve this model."""
        return model in self.instance.models or model in self.instance.embedders

    def load_for(self, priority: Priority) -> InstanceLoad:
        """Its load as a request of this priority meets it: batch work gives way to online requests."""
        counted: tuple[Priority, ...] = ("online",) if priority == "online" else ("online", "batch")
        busy = sum(self._own[one] + self._others[one] for one in counted)
        return InstanceLoad(self.instance.name, busy, max(1, self.instance.load.slots))

    @contextmanager
    def carrying(self, priority: Priority) -> Iterator[None]:
        """Count a request of this process while it is in the instance."""
        self._own[priority] += 1
        try:
            yield
        finally:
            self._own[priority] -= 1
