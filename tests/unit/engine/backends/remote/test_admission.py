"""How much batch a server gets beside online requests, in virtual time before a server of so many slots."""

from __future__ import annotations

import pytest
from benchmarks.upstream.virtual import Front, Load, Oracle, Outcome, Sender, Static, play

from antiphon.core.errors import EngineError, InvalidInputError, OverloadedError, UnavailableError
from antiphon.engine.backends.remote import admission as module
from antiphon.engine.backends.remote.admission import LEAST, SentRequest, ServerReport, UpstreamAdmission
from antiphon.engine.scheduling.service_level import ServiceLevel

STRICT = ServiceLevel(slowdown=0.05)
LEVEL = ServiceLevel(slowdown=0.5)


def learned(limit: float = 8.0) -> tuple[UpstreamAdmission, float]:
    """An admission that has seen thirty online requests alone, each of 50 ms, and the time."""
    admission = UpstreamAdmission()
    for number in range(30):
        at = number / 10
        request = admission.sent(at, "online", 400, LEVEL)
        admission.first_token(request, at + 0.05)
        admission.ended(request, at + 0.06)
    admission.beside_online.value = limit
    return admission, 3.0


def filled(admission: UpstreamAdmission, now: float) -> list[SentRequest]:
    """As much batch as is admitted."""
    sent = []
    while admission.admits(now) and len(sent) < 1_000:
        sent.append(admission.sent(now, "batch", 400, None))
    return sent


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return play(Load(), Sender(), 100)


def test_online_is_served_as_without_batch_and_batch_gets_what_is_left(alone: Outcome) -> None:
    ours = play(Load(), Front(STRICT), 100)
    knowing = [play(Load(), Oracle(free), 100) for free in (2, 3, 4)]
    best = max(one.batch for one in knowing if one.at(0.99) <= 1.05 * alone.at(0.99))
    assert ours.at(0.99) <= 1.1 * alone.at(0.99)
    assert ours.at(0.5) <= 1.02 * alone.at(0.5)
    assert ours.batch >= 0.85 * best


def test_one_that_does_not_see_online_requests_harms_them(alone: Outcome) -> None:
    apart = play(Load(), Front(STRICT, blind_to_online=True), 100)
    assert apart.at(0.99) > 1.5 * alone.at(0.99)


def test_a_server_that_loses_slots_gets_less() -> None:
    load = Load(seconds=600.0, warm=400.0, lost=4)
    alone = play(load, Sender(), 100)
    ours, apart = play(load, Front(STRICT), 100), play(load, Oracle(4), 100)
    assert apart.at(0.9) > 1.5 * alone.at(0.9)
    assert ours.at(0.9) <= 1.05 * alone.at(0.9)


def test_batch_alone_queues_here_and_not_in_the_server() -> None:
    front = Front(STRICT)
    outcome = play(Load(rate=1e-9), front, 100)
    assert 9 <= front.admission.alone.value < 13
    assert outcome.batch > 0.95 * play(Load(rate=1e-9), Oracle(0), 100).batch


@pytest.mark.parametrize("noise", [0.15, 0.3])
def test_a_servers_own_noise_is_no_harm(noise: float) -> None:
    load = Load(noise=noise)
    alone, ours = play(load, Sender(), 100), play(load, Front(ServiceLevel(slowdown=0.25)), 100)
    assert ours.at(0.5) <= 1.25 * alone.at(0.5)
    assert ours.at(0.99) <= 1.3 * alone.at(0.99)
    assert ours.batch > 3.0


def test_a_server_that_every_request_slows_down_gets_as_many_as_the_level_allows() -> None:
    load = Load(slots=64, interference=0.05)
    alone, ours = play(load, Sender(), 100), play(load, Front(LEVEL), 100)
    assert ours.at(0.9) <= 1.5 * alone.at(0.9)
    assert ours.batch > 6.0


def test_many_online_requests_do_not_hide_that_there_is_room() -> None:
    load = Load(slots=100, rate=50.0, seconds=90.0, warm=45.0)
    alone, ours = play(load, Sender(), 100), play(load, Front(STRICT), 100)
    assert ours.at(0.99) <= 1.05 * alone.at(0.99)
    assert ours.batch > 0.8 * play(load, Static(1_000), 100).batch


def test_batch_counts_what_is_online() -> None:
    admission, now = learned(limit=8.0)
    online = [admission.sent(now, "online", 400, LEVEL) for _ in range(5)]
    assert len(filled(admission, now)) == 3
    for request in online:
        admission.ended(request, now)
    assert len(filled(admission, now)) == 5


def test_there_is_one_batch_request_until_something_is_learned() -> None:
    assert len(filled(UpstreamAdmission(), 0.0)) == 1


@pytest.mark.parametrize("failure", [EngineError("Broken."), UnavailableError("Away.")])
def test_after_an_error_there_is_one_until_the_server_serves_again(failure: Exception) -> None:
    admission, now = learned()
    failed = admission.sent(now, "online", 400, LEVEL)
    admission.ended(failed, now, failure)  # type: ignore[arg-type]
    batch = filled(admission, now)
    assert len(batch) == 1
    admission.first_token(batch[0], now + 0.1)
    assert len(filled(admission, now + 0.1)) > 3


def test_an_error_of_a_request_says_nothing_about_the_server() -> None:
    admission, now = learned()
    admission.ended(admission.sent(now, "batch", 400, None), now, InvalidInputError("Too long."))
    assert len(filled(admission, now)) == 8


def test_while_an_online_request_waits_too_long_there_is_no_more_batch() -> None:
    admission, now = learned()
    batch = filled(admission, now)
    online = admission.sent(now, "online", 400, LEVEL)
    for request in batch:
        admission.ended(request, now + 0.01)
    again = filled(admission, now + 0.01)
    assert len(again) == 7
    for request in again:
        admission.ended(request, now + 0.01)
    kept = admission.sent(now + 0.1, "batch", 400, None)
    before = admission.beside_online.value
    assert not admission.admits(now + 1.0)  # It has not had its first token, and may wait for 75 ms.
    assert admission.beside_online.value < before
    admission.ended(kept, now + 1.0)
    admission.first_token(online, now + 1.1)
    admission.ended(online, now + 1.2)


def test_where_batch_is_preempted_it_comes_back_after_the_first_token_or_a_bound() -> None:
    for first_token in (True, False):
        admission = UpstreamAdmission(preempts=True)
        assert admission.admits(0.0)
        batch = admission.sent(0.0, "batch", 400, None)
        online = admission.sent(1.0, "online", 400, LEVEL)
        admission.ended(batch, 1.0)
        assert not admission.admits(1.0)
        if first_token:
            admission.first_token(online, 2.0)
            assert admission.admits(module._ALONE_SECONDS + 1.0)
        else:
            assert not admission.admits(0.9 * module.HELD_SECONDS)
            assert admission.admits(1.0 + max(module.HELD_SECONDS, module._ALONE_SECONDS))


def test_a_bound_in_seconds_and_a_slowdown_are_both_held() -> None:
    for level, waited, harmed in (
        (ServiceLevel(ttft=0.3), 0.25, False),
        (ServiceLevel(ttft=0.3), 0.35, True),
        (ServiceLevel(slowdown=0.5), 0.07, False),
        (ServiceLevel(slowdown=0.5), 0.1, True),
        (ServiceLevel(ttft=0.06, slowdown=0.5), 0.07, True),
    ):
        admission, now = learned()
        filled(admission, now)
        request = admission.sent(now, "online", 400, level)
        admission.first_token(request, now + waited)
        assert (admission.beside_online.value < 8.0) == harmed, (level, waited)


def test_a_refusal_lowers_the_limit_once_for_all_that_were_sent_before() -> None:
    admission, now = learned(limit=10.0)
    first, second = filled(admission, now)[:2]
    admission.ended(first, now + 1.0, OverloadedError("Full."))
    admission.ended(second, now + 1.0, OverloadedError("Full."))
    assert admission.beside_online.value == pytest.approx(9.0)


def test_pauses_take_a_hundredth_of_the_time() -> None:
    class Watched(Front):
        silent, before = 0.0, 0.0

        def admits(self, server: object, now: float) -> bool:
            if now < self.admission._paused_until:
                self.silent += now - self.before
            self.before = now
            return super().admits(server, now)  # type: ignore[arg-type]

    watched = Watched(STRICT)
    play(Load(seconds=1200.0), watched, 100)
    assert 0 < watched.silent < 0.015 * 1200.0


def test_a_server_that_reports_gets_batch_while_little_waits_in_it() -> None:
    admission = UpstreamAdmission()
    admission.reported(ServerReport(5, 0, 0.4), 0.0)
    assert len(filled(admission, 0.0)) == 2  # Until the next report nobody knows where they are.
    admission.reported(ServerReport(7, 0, 0.4), 1.0)
    assert admission.admits(1.0)
    admission.reported(ServerReport(7, 2, 0.4), 2.0)
    assert not admission.admits(2.0)
    admission.reported(ServerReport(7, 0, 0.96), 3.0)
    assert not admission.admits(3.0)


def test_a_server_that_reports_no_queue_is_held_to_what_online_requests_wait() -> None:
    admission, now = learned(limit=4.0)
    admission.reported(ServerReport(1, 0, 0.1), now)
    assert len(filled(admission, now)) == 2  # of which nothing is reported yet
    admission.reported(ServerReport(3, 0, 0.1), now + 0.1)
    assert len(filled(admission, now + 0.1)) == 2
    admission.reported(ServerReport(5, 0, 0.1), now + 0.2)
    assert not admission.admits(now + 0.2)
    admission.reported(ServerReport(5, 0, 0.1), now + 2 * module.QUIET_SECONDS)
    assert admission.admits(now + 2 * module.QUIET_SECONDS)


def test_a_server_that_reported_and_ceased_to_gets_one() -> None:
    admission = UpstreamAdmission()
    admission.reported(ServerReport(0, 0, 0.0), 0.0)
    late = module.REPORT_SECONDS + 0.1
    assert len(filled(admission, late)) == LEAST
    admission.reported(ServerReport(1, 0, 0.0), late)
    assert admission.admits(late)


def test_a_batch_request_that_others_joined_does_not_tell_what_one_waits_alone() -> None:
    admission, now = learned()
    first, *others = filled(admission, now)
    admission.first_token(first, now + 30.0)
    for request in (first, *others):
        admission.ended(request, now + 30.0)
    waits = admission.sent(now + 31.0, "online", 400, ServiceLevel(ttft=0.2))
    waits.batch = 1
    admission.first_token(waits, now + 31.3)
    assert admission.beside_online.value < 8.0, "what one waited behind others counts as noise of the server"
