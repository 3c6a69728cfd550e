from __future__ import annotations

from antiphon.engine.api.messages import EngineDescription, EngineInstance, EngineLoad
from antiphon.engine.routing.merged import loads_by_host


def instance(name: str, host: str, **load: int) -> EngineInstance:
    return EngineInstance(name, name, host, "", "", {}, {}, EngineLoad(**load))


def test_loads_are_told_by_the_host_of_each_engine() -> None:
    instances = (
        instance("a", "north", running_online=1, slots=4),
        instance("b", "south", waiting_online=2),
        instance("c", "north", running_online=2, running_batch=1),
    )
    described = EngineDescription("d", (), EngineLoad(running_online=3, waiting_online=2), instances=instances)
    assert loads_by_host(described, "here") == {
        "north": EngineLoad(running_online=3, running_batch=1, slots=4),
        "south": EngineLoad(waiting_online=2),
    }


def test_an_engine_by_itself_is_on_the_host_that_it_names_or_on_the_asking_one() -> None:
    load = EngineLoad(running_online=1)
    assert loads_by_host(EngineDescription("d", (), load, host="north"), "here") == {"north": load}
    assert loads_by_host(EngineDescription("d", (), load), "here") == {"here": load}
