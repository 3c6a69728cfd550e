"""The order of batch work: of a job's rows, and across jobs."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from antiphon.batch.fair_queue import ESCALATED_SHARE, MAX_WAIT_SECONDS, QueueState, SlotRequest, next_request
from antiphon.batch.row_plan import Prefix, RowSketch, distinct_bytes, sharing_order


@st.composite
def jobs(draw: st.DrawFn, most: int = 60) -> list[RowSketch]:
    """Rows whose prompts share beginnings as those of a tree do."""
    rows = []
    for line in draw(st.lists(st.integers(0, 500), min_size=1, max_size=most, unique=True)):
        path = draw(st.lists(st.integers(0, 2), max_size=3))
        prefixes = tuple(Prefix(hash((7, *path[: depth + 1])), 256 << depth) for depth in range(len(path)))
        tail = draw(st.integers(0, 400))
        rows.append(
            RowSketch(line, 0, (prefixes[-1].bytes if prefixes else 0) + tail, draw(st.integers(1, 64)), prefixes)
        )
    return rows


@given(jobs(), st.integers(1, 80))
def test_it_is_a_permutation_and_nobody_is_late(rows: list[RowSketch], behind: int) -> None:
    ordered = sharing_order(rows, behind)
    assert sorted(ordered, key=lambda row: row.line) == sorted(rows, key=lambda row: row.line)
    turn = {row.line: number for number, row in enumerate(sorted(rows, key=lambda row: row.line))}
    assert all(place <= turn[row.line] + behind for place, row in enumerate(ordered))


@given(jobs())
def test_rows_that_begin_alike_stand_together_at_every_length(rows: list[RowSketch]) -> None:
    ordered = sharing_order(rows, len(rows))
    for digest in {prefix.digest for row in rows for prefix in row.prefixes}:
        assert runs(ordered, digest) == 1


@given(jobs(), st.integers(1, 20))
def test_the_bound_cuts_a_run_only_for_a_row_that_is_due(rows: list[RowSketch], behind: int) -> None:
    ordered, turn = sharing_order(rows, behind), {}
    for number, row in enumerate(sorted(rows, key=lambda row: row.line)):
        turn[row.line] = number
    planned = sharing_order(rows, len(rows))
    for place in range(1, len(ordered)):
        left = [row for row in planned if row not in ordered[:place]]
        due = turn[ordered[place].line] + behind <= place
        after = planned.index(ordered[place - 1])
        goes_on = next((row for row in planned[after + 1 :] if row in left), left[0])
        assert due or ordered[place] == goes_on


@given(jobs())
def test_distinct_bytes_are_those_of_the_tree(rows: list[RowSketch]) -> None:
    edges: dict[int, int] = {}
    own = 0
    for row in rows:
        lengths = [0, *(prefix.bytes for prefix in row.prefixes)]
        for prefix, above in zip(row.prefixes, lengths, strict=False):
            edges[prefix.digest] = prefix.bytes - above
        own += row.prompt_bytes - lengths[-1]
    assert distinct_bytes(rows) == sum(edges.values()) + own
    assert distinct_bytes(rows) <= sum(row.prompt_bytes for row in rows)


def test_beginnings_that_finish_more_rows_a_token_come_first() -> None:
    long = [RowSketch(line, 0, 4_000, 8, (Prefix(1, 4_000),)) for line in (0, 1)]
    short = [RowSketch(line, 0, 400, 8, (Prefix(2, 400),)) for line in (2, 3)]
    assert [row.line for row in sharing_order([*long, *short])] == [2, 3, 0, 1]


def runs(ordered: Sequence[RowSketch], digest: int) -> int:
    """Runs of rows with this prefix."""
    there = [any(prefix.digest == digest for prefix in row.prefixes) for row in ordered]
    return sum(1 for at, here in enumerate(there) if here and (at == 0 or not there[at - 1]))


NOW = 1_000.0


def claims(waited: tuple[float, float], laxity: tuple[float, float]) -> st.SearchStrategy[list[SlotRequest]]:
    """Claims of jobs that have waited so long, and could still wait so long."""

    def claim(tenant: str, job: str, waits: float, left: float, laxity: float, prefix: int) -> SlotRequest:
        return SlotRequest(tenant, job, NOW - waits, NOW + left + laxity, left, prefix)

    one = st.builds(
        claim, st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(*waited), st.floats(0, 2_000),
        st.floats(*laxity), st.integers(0, 3),
    )  # fmt: skip
    return st.lists(one, min_size=1, max_size=8)


FRESH, LONG, ANY = (0.0, MAX_WAIT_SECONDS), (MAX_WAIT_SECONDS + 1, 600.0), (0.0, 600.0)
SHORT, AMPLE, EITHER = (-5_000.0, 119.0), (2_001.0, 90_000.0), (-5_000.0, 90_000.0)

states = st.builds(
    QueueState,
    slots=st.integers(1, 16),
    escalated=st.integers(0, 16),
    held=st.dictionaries(st.sampled_from("abc"), st.integers(1, 8)),
    last=st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 99), st.integers(0, 3))),
)


@given(claims(ANY, EITHER), claims(LONG, EITHER), states)
def test_who_has_waited_longer_than_the_bound_is_next(
    some: list[SlotRequest], long: list[SlotRequest], state: QueueState
) -> None:
    waiting = [*some, *long]
    assert next_request(waiting, state, NOW).since == min(claim.since for claim in waiting)


@given(claims(FRESH, SHORT), st.one_of(st.just([]), claims(FRESH, AMPLE)), states)
def test_jobs_whose_laxity_is_short_go_by_deadline(
    urgent: list[SlotRequest], others: list[SlotRequest], state: QueueState
) -> None:
    chosen = next_request([*others, *urgent], state, NOW)
    if others and state.escalated >= ESCALATED_SHARE * state.slots:
        assert chosen in others, "escalation leaves turns to others"
    else:
        assert chosen.deadline == min(claim.deadline for claim in urgent)


@given(claims(FRESH, AMPLE), states)
def test_with_ample_laxity_the_tenant_with_fewest_turns_is_next_and_goes_on_as_it_began(
    waiting: list[SlotRequest], state: QueueState
) -> None:
    chosen = next_request(waiting, state, NOW)
    assert state.held.get(chosen.tenant, 0) == min(state.held.get(claim.tenant, 0) for claim in waiting)
    _, prefix = state.last.get(chosen.tenant, (0, 0))
    alike = [claim for claim in waiting if claim.tenant == chosen.tenant and claim.prefix == prefix != 0]
    assert not alike or chosen.prefix == prefix


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(5_000, 90_000)), min_size=1, max_size=6), st.integers(1, 4)
)
def test_every_job_is_served_again_and_again(demand: list[tuple[str, float]], most: int) -> None:
    """Slots of a second each: between two turns of a job there is at most the bound, and one turn of everybody else."""
    now, last = 0.0, dict.fromkeys(range(len(demand)), 0.0)
    waiting = [SlotRequest(tenant, str(number), 0.0, due) for number, (tenant, due) in enumerate(demand)]
    for _ in range(400):
        chosen = next_request(waiting, QueueState(most, 0, {}, {}), now)
        assert now - last[int(chosen.job)] <= MAX_WAIT_SECONDS + len(demand)
        now += 1.0
        last[int(chosen.job)] = now
        waiting = [claim for claim in waiting if claim is not chosen]
        waiting.append(SlotRequest(chosen.tenant, chosen.job, now, chosen.deadline))
    assert all(now - each <= MAX_WAIT_SECONDS + len(demand) for each in last.values())
