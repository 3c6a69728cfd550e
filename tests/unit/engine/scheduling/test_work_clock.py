import random

from antiphon.engine.scheduling.pacing import WorkClock


def test_where_nothing_ran_a_second_is_a_second() -> None:
    clock = WorkClock()
    assert clock.work(3.5) == 3.5
    assert clock.time(3.5) == 3.5


def test_a_call_that_took_twice_as_long_is_half_as_much_work() -> None:
    clock = WorkClock()
    clock.observe(10.0, 10.6, 0.3)
    assert abs(clock.work(10.2) - 10.1) < 1e-9
    assert abs(clock.work(11.6) - 11.3) < 1e-9
    assert abs(clock.time(10.1) - 10.2) < 1e-9
    assert abs(clock.time(11.3) - 11.6) < 1e-9


def test_there_and_back_is_the_same_moment_also_when_old_calls_are_forgotten() -> None:
    clock, chance, now = WorkClock(), random.Random(1), 5.0
    for _ in range(20_000):
        begin = now + chance.choice((0.0, 0.0, 0.01))
        now = begin + chance.uniform(0.001, 0.05)
        clock.observe(begin, now, chance.uniform(0.001, 0.05))
    for _ in range(200):
        moment = now - chance.uniform(-1.0, 60.0)
        assert abs(clock.time(clock.work(moment)) - moment) < 1e-6
    works = [clock.work(now - back) for back in range(60, 0, -1)]
    assert works == sorted(works)
