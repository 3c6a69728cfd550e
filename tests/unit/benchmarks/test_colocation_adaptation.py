from benchmarks.colocation.adaptation import SCENARIOS, doubled, harm, steady, watched
from benchmarks.colocation.outcome import Served

from antiphon.engine.scheduling.service_level import ServiceLevel


def served(first: float, last: float) -> Served:
    return Served(0.0, 10, 2, [first, last])


def test_harm_is_what_batch_did() -> None:
    slower = ServiceLevel(slowdown=0.1)
    assert harm(served(0.5, 1.0), served(0.5, 1.2), slower) == 1
    assert harm(served(0.5, 1.0), served(0.9, 1.05), slower) == 0
    seconds = ServiceLevel(ttft=1.0, tpot=0.1)
    assert harm(served(0.9, 1.0), served(1.1, 1.15), seconds) == 1
    assert harm(served(1.5, 1.6), served(1.7, 1.8), seconds) == 0
    assert harm(served(1.1, 1.15), served(0.9, 1.0), seconds) == -1


def test_the_load_doubles_at_the_moment_it_says() -> None:
    before, after = (
        [sum(1 for each in load(seed) if (each.at < 60.0) == early) for seed in range(8)]
        for load, early in ((doubled, True), (doubled, False))
    )
    alone = [sum(1 for each in steady(seed) if each.at < 60.0) for seed in range(8)]
    assert before == alone
    assert 2.2 < sum(after) / sum(before) < 4.0  # Ninety seconds at twice the rate against sixty.


def test_a_neighbor_that_takes_half_of_the_machine_is_followed() -> None:
    found = watched(SCENARIOS[3], ServiceLevel(slowdown=0.25), 1)
    assert found.requests > 20
    assert 0 <= found.holds_after <= 45
    assert found.batch_rate > 0
    assert len(found.harmed) == 18
