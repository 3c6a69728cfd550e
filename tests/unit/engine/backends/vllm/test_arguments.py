import pytest

from antiphon.engine.backends.vllm.arguments import body, level_of, priority_of
from antiphon.engine.scheduling.service_level import ServiceLevel


@pytest.mark.parametrize("level", [None, ServiceLevel(slowdown=0.1), ServiceLevel(ttft=1.0, tpot=0.1, latency=10.0)])
def test_a_service_level_arrives_as_it_was_sent(level: ServiceLevel | None) -> None:
    assert level_of(body("online", level).get("vllm_xargs")) == level


def test_priorities_arrive_as_they_were_sent() -> None:
    assert priority_of(body("batch", None)["priority"]) == "batch"
    assert priority_of(body("online", None)["priority"]) == "online"


@pytest.mark.parametrize("value", ["soon", -1, [], None])
def test_what_is_no_bound_is_none(value: object) -> None:
    assert level_of({"antiphon_ttft": value, "antiphon_slowdown": 0.5, "other": 1}) == ServiceLevel(slowdown=0.5)
