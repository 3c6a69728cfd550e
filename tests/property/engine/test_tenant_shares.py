"""Tenants on one engine: with as much work they are served alike, nobody starves, a label alone changes nothing."""

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.property.engine.test_scheduler import budgets, states

from antiphon.engine.scheduling.latency_model import CallModel, LatencyModel
from antiphon.engine.scheduling.scheduler import plan
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget
from antiphon.engine.scheduling.tenant_shares import (
    HEAVY_TENANT_WEIGHT,
    MAX_LAG_SECONDS,
    MAX_LEAD_SECONDS,
    TenantShares,
)

CHUNK, SLOTS = 32, 4
MODEL = LatencyModel(CallModel((0.01, 0.001, 0.0)), CallModel((0.01, 0.004, 0.0)))


@given(states(), budgets)
def test_one_tenant_is_served_as_if_it_had_no_name(state: SchedulerState, budget: StepBudget) -> None:
    named = replace(state, sequences=tuple(structs.replace(sequence, tenant="a") for sequence in state.sequences))
    assert plan(named, budget) == plan(state, budget)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["resident", "waiting", "swapped"])), max_size=14),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
def test_a_slot_changes_hands_only_towards_a_tenant_that_has_none(
    wanted: list[tuple[str, str]], random: Random, slots: int
) -> None:
    residents, sequences = 0, []
    for ticket, (tenant, place) in enumerate(wanted):
        if place == "resident" and residents == slots:
            place = "waiting"
        residents += place == "resident"
        order = ticket if random.random() < 0.8 else ticket - 100
        generating = place == "resident" and random.random() < 0.5
        sequences.append(SequenceView(ticket, "online", order, 32, 8, generating, place, tenant=tenant))
    decided = plan(SchedulerState(tuple(sequences), slots, CHUNK, MODEL), StepBudget())
    keep, admit = set(decided.swap_out), set(decided.admit)
    assert not keep & admit
    before = Counter(each.tenant for each in sequences if each.residency == "resident")
    gained = Counter(sequences[ticket].tenant for ticket in admit)
    lost = Counter(sequences[ticket].tenant for ticket in keep)
    after = before + gained - lost
    assert residents - len(keep) + len(admit) <= slots
    assert all(after[tenant] >= 1 for tenant in lost), "the last slot is not taken"
    assert len(keep) <= sum(not before[tenant] for tenant in gained)
    without = {each.tenant for each in sequences if not after[each.tenant]}
    # What goes ahead may have got several in this very step: they are taken back in the next.
    assert not without or all(after[tenant] <= 1 for tenant in before - lost)


class Simulated:
    """The executor's rules in virtual time, with requests that are replaced as soon as they end."""

    def __init__(
        self, requests: list[tuple[str, int, int]], slots: int = SLOTS, share: dict[str, float] | None = None
    ) -> None:
        self.slots = slots
        self.share = share or {}
        self.shares = TenantShares()
        self.had: dict[str, float] = {}
        self.waited: dict[int, float] = {}
        self.clock = 0.0
        self.requests = requests
        self.views: dict[int, SequenceView] = {}
        self.left: dict[int, int] = {}
        self.number = 0
        for request in requests:
            self.arrive(request)

    def arrive(self, request: tuple[str, int, int]) -> None:
        tenant, tokens, answer = request
        self.number += 1
        self.views[self.number] = SequenceView(
            self.number,
            "online",
            self.number,
            0,
            tokens,
            False,
            "waiting",
            tenant=tenant,
            share=self.share.get(tenant, 1.0),
        )
        self.left[self.number] = answer
        self.waited[self.number] = self.clock
        self.shares.arrived(tenant, self.share.get(tenant, 1.0))

    def step(self) -> float:
        state = SchedulerState(tuple(self.views.values()), self.slots, CHUNK, MODEL, service=self.shares.service)
        decided = plan(state, StepBudget())
        assert decided.prefill or decided.decode, "there is work, and none was done"
        for ticket in decided.swap_out:
            self.views[ticket] = structs.replace(self.views[ticket], residency="swapped")
        for ticket in decided.admit:
            self.views[ticket] = structs.replace(self.views[ticket], residency="resident")
        took, served = 0.0, list[int]()
        for ticket, tokens in decided.prefill:
            each, seconds = self.views[ticket], 0.0
            for begin in range(0, tokens, CHUNK):
                seconds += MODEL.feed(min(CHUNK, tokens - begin), 0)
            took += self.charge(ticket, seconds)
            served.append(ticket)
            done = tokens == each.pending
            self.views[ticket] = structs.replace(
                each, position=each.position + tokens, pending=1 if done else each.pending - tokens, generating=done
            )
        seconds = MODEL.decode(len(decided.decode), 0)
        for ticket in decided.decode:
            took += self.charge(ticket, seconds / len(decided.decode))
            served.append(ticket)
            self.left[ticket] -= 1
        self.clock += took
        for ticket in served:
            self.waited[ticket] = self.clock
        for ticket in [ticket for ticket, left in self.left.items() if left <= 0]:
            tenant = self.views.pop(ticket).tenant
            del self.left[ticket], self.waited[ticket]
            answer = next(request for request in self.requests if request[0] == tenant)
            self.arrive(answer)  # before the other is gone: its tenant always has work
            self.shares.left(tenant)
        return took

    def charge(self, ticket: int, seconds: float) -> float:
        tenant = self.views[ticket].tenant
        self.shares.charge(tenant, seconds)
        self.had[tenant] = self.had.get(tenant, 0.0) + seconds
        return seconds


request = st.tuples(st.integers(1, 600), st.integers(1, 40))


@settings(max_examples=40)
@given(st.lists(request, min_size=1, max_size=8), st.lists(request, min_size=1, max_size=2))
def test_the_heavier_of_two_tenants_gets_between_half_and_all_of_the_others_time(
    many: list[tuple[int, int]], few: list[tuple[int, int]]
) -> None:
    world = Simulated([("many", *each) for each in many] + [("few", *each) for each in few])
    heavier, other = ("many", "few") if len(many) > len(few) else ("few", "many")
    weight = 1.0 if len(many) == len(few) else HEAVY_TENANT_WEIGHT
    longest = 0.0
    for _ in range(300):
        longest = max(longest, world.step())
        apart = MAX_LAG_SECONDS + 2 * weight * longest
        assert world.had.get(heavier, 0.0) <= world.had.get(other, 0.0) + apart
        assert world.had.get(other, 0.0) <= weight * world.had.get(heavier, 0.0) + apart


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), request), min_size=1, max_size=SLOTS))
def test_no_sequence_with_a_slot_is_left_standing(requests: list[tuple[str, tuple[int, int]]]) -> None:
    world = Simulated([(tenant, *each) for tenant, each in requests])
    tenants = len({tenant for tenant, _ in requests})
    for _ in range(300):
        world.step()
        resident = [ticket for ticket, view in world.views.items() if view.generating]
        assert all(world.clock - world.waited[ticket] < (tenants + 1) * 3 * MAX_LEAD_SECONDS for ticket in resident)


@settings(max_examples=25)
@given(st.lists(request, min_size=2, max_size=20), st.integers(1, 8))
def test_of_many_tenants_that_have_work_none_gets_far_ahead(sizes: list[tuple[int, int]], crowd: int) -> None:
    """The first tenant has many requests, the others one each."""
    tenants = [str(number) for number in range(len(sizes))]
    requests = [(tenant, *size) for tenant, size in zip(tenants, sizes, strict=True)]
    world = Simulated(requests[:1] * crowd + requests[1:], slots=len(sizes) + crowd)
    weight = 1.0 if crowd == 1 else HEAVY_TENANT_WEIGHT
    longest = 0.0
    for _ in range(300):
        longest = max(longest, world.step())
        heavier, *others = (world.had.get(tenant, 0.0) for tenant in tenants)
        apart = MAX_LAG_SECONDS + 2 * weight * longest
        assert max(heavier, *others) - min(others) <= apart
        assert max(others) <= weight * heavier + apart


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(0, 60))
def test_a_stream_goes_on_while_many_tenants_arrive(arriving: int, before: int) -> None:
    world = Simulated([("streams", 32, 10_000)], slots=arriving + 1)
    for _ in range(10 + before):
        world.step()
    for number in range(arriving):
        world.requests.append((f"new-{number}", 64, 20))
        world.arrive(world.requests[-1])
    longest_gap = 0.0
    for _ in range(200):
        world.step()
        longest_gap = max(longest_gap, world.clock - world.waited[1])
    assert longest_gap <= 2 * MAX_LEAD_SECONDS


@settings(max_examples=15)
@given(st.lists(request, min_size=1, max_size=4), st.sampled_from([2.0, 3.0]), st.integers(2, 8))
def test_of_two_tenants_with_as_many_requests_each_has_time_by_its_share(
    sizes: list[tuple[int, int]], share: float, slots: int
) -> None:
    requests = [(tenant, *size) for size in sizes for tenant in ("more", "once")]
    world = Simulated(requests, slots, {"more": share})
    longest = 0.0
    for _ in range(250):
        longest = max(longest, world.step())
        apart = share * (MAX_LAG_SECONDS + 3 * longest)
        assert abs(world.had.get("more", 0.0) - share * world.had.get("once", 0.0)) <= apart
