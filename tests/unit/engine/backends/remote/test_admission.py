import random

import pytest

from antiphon.engine.backends.remote.admission import FIRST, LEAST, BatchAdmission
from antiphon.engine.scheduling.service_level import ServiceLevel

LEVEL = ServiceLevel(slowdown=0.5)


class Server:
    """In virtual time: a first token takes 0.2 s and ``each`` of that more for every batch request there; batch
    requests take three seconds."""

    def __init__(self, each: float) -> None:
        self.each = each
        self.admission = BatchAdmission()
        self.now = 0.0
        self._ends: list[float] = []
        self._chance = random.Random(5)

    def serve(self, requests: int, level: ServiceLevel) -> list[float]:
        """Online requests, one a second, beside as much batch as is admitted; their waits as shares of 0.2 s."""
        waits = []
        for _ in range(requests):
            self.now += 1.0
            self._batch()
            begun = self.admission.online_began(self.now, 400, level)
            wait = 0.2 * (1 + self.each * self.admission.batch) * self._chance.uniform(0.95, 1.05)
            self.admission.first_token(begun, self.now + wait)
            self.admission.online_ended(self.now + wait)
            waits.append(wait / 0.2)
        return waits

    def _batch(self) -> None:
        for end in [end for end in self._ends if end <= self.now]:
            self._ends.remove(end)
            self.admission.batch_ended(end)
        while self.admission.admits(self.now):
            self.admission.batch_began()
            self._ends.append(self.now + 3.0)


def test_batch_grows_to_what_online_does_not_notice_and_no_further() -> None:
    server = Server(each=0.05)
    server.serve(600, LEVEL)
    waits = server.serve(300, LEVEL)
    assert sum(wait <= 1.5 for wait in waits) / 300 > 0.8
    assert server.admission.limit > 4  # Ten would slow it down by a half.


def test_where_one_batch_request_harms_there_is_one() -> None:
    server = Server(each=2.0)
    server.serve(300, LEVEL)
    assert server.admission.limit < LEAST + 1


def test_a_bound_in_seconds_needs_nothing_learnt() -> None:
    server = Server(each=0.05)
    server.serve(60, ServiceLevel(ttft=0.5))
    assert server.admission.limit > FIRST + 3


def test_a_slowdown_is_judged_only_once_requests_were_served_alone() -> None:
    admission = BatchAdmission()
    for number in range(20):
        admission.batch_began()
        begun = admission.online_began(float(number), 100, LEVEL)
        admission.first_token(begun, number + 0.01)
        admission.online_ended(number + 0.02)
    assert admission.limit == LEAST


def test_requests_are_served_alone_now_and_then() -> None:
    server = Server(each=0.05)
    server.serve(200, LEVEL)
    alone = [wait for wait in server.serve(200, LEVEL) if wait < 1.05]
    assert len(alone) > 3


def test_a_refusal_lowers_the_limit_once_for_all_that_were_sent_before() -> None:
    admission = BatchAdmission()
    for _ in range(2):
        admission.batch_began()
    admission.limit = 10.0
    admission.batch_ended(1.0, refused=True)
    assert admission.limit == pytest.approx(7.0)


def test_with_nobody_online_it_grows() -> None:
    admission = BatchAdmission()
    for number in range(40):
        admission.batch_began()
        admission.batch_ended(float(number))
    assert admission.limit > 6
