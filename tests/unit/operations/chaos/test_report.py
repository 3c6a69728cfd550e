"""Reports are made from the events of a journal alone, also from those of a run that was cut off."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from antiphon.operations.chaos.journal import (
    ExperimentEnd,
    ExperimentStart,
    FaultEnd,
    FaultStart,
    Journal,
    JournalEvent,
    MethodEnd,
    MethodStart,
    ProbeLine,
    QuestionCounts,
    RunEnd,
    RunStart,
    read_journal,
)
from antiphon.operations.chaos.report import ChaosReport, markdown, report_of
from antiphon.operations.chaos.steady_state import ProbeSample, TimeSpan

START = RunStart("chaos_1", 100.0, "ann", "game day", "default", "dev", "host/boot/ns/1/2", ("kill-worker",))
BEGIN: tuple[JournalEvent, ...] = (
    START,
    ExperimentStart(
        "kill-worker", 100.0, "shipped", "A worker is killed",
        (ProbeLine("ready", "200"),), (ProbeLine("explained", "0 to 0"),), "it fails with a reason", 5.0, True,
    ),
    ProbeSample("kill-worker", "ready", 100.5, 200, True),
    ProbeSample("kill-worker", "explained", 100.5, 0.0, True),
    MethodStart("kill-worker", 101.0),
    FaultStart("kill-worker", "kill", 101.2, "kill_process(process=worker)", ("worker (process 7)",)),
    FaultEnd("kill-worker", "kill", 101.3, "its time was over"),
)  # fmt: skip
AWAY = (
    ProbeSample("kill-worker", "ready", 102.0, None, False, "it does not answer"),
    ProbeSample("kill-worker", "ready", 105.0, 200, True),
)
END = (
    MethodEnd("kill-worker", 106.0),
    ExperimentEnd("kill-worker", 111.0, "completed", "", True, QuestionCounts(20, 18, 1, 1, 1, 0, 0.1, 0.4, 2.0)),
    RunEnd(111.0),
)


def reported(events: Sequence[JournalEvent], runner_lives: bool = False) -> ChaosReport:
    found = report_of(events, runner_lives=runner_lives)
    assert found is not None
    return found


def test_it_held_and_says_for_how_long_the_state_was_not_steady() -> None:
    report = reported([*BEGIN, *AWAY, *END])
    (one,) = report.experiments
    assert (report.held, one.status) == (True, "held")
    assert (one.outside_seconds, one.outside_share, one.degraded_seconds, one.broken_seconds) == (3.0, 0.3, 3.0, 0.0)
    assert one.recovered_after == 5.0
    ready, explained = one.probes
    assert (ready.moments, ready.seen, ready.outside_share) == ((TimeSpan(102, 105),), ("it does not answer",), 0.3)
    assert (explained.role, explained.moments) == ("degraded", ())
    text = markdown(report)
    for told in (
        "3.0 s (30.0%)",
        "1.0 to 4.0 s (it does not answer)",
        "`kill_process(process=worker)`",
        "Of 20 questions 18",
    ):
        assert told in text


def test_it_deviated_when_neither_held_or_the_state_was_not_back() -> None:
    neither = ProbeSample("kill-worker", "explained", 103.0, 0.5, False)
    one = reported([*BEGIN, *AWAY[:1], neither, *AWAY[1:], *END]).experiments[0]
    assert (one.status, one.broken) == ("deviated", (TimeSpan(103, 105),))
    late = ExperimentEnd("kill-worker", 111.0, "completed", "It is away.", False)
    report = reported([*BEGIN, *AWAY, END[0], late, END[2]])
    assert (report.held, report.experiments[0].status, report.experiments[0].reason) == (
        False,
        "deviated",
        "It is away.",
    )


def test_a_run_whose_runner_died_tells_when_its_fault_ended() -> None:
    cut = [*BEGIN[:-1], *AWAY[:1], FaultEnd("kill-worker", "kill", 103.0, "the runner is gone")]
    report = reported(cut)
    (one,) = report.experiments
    assert (report.held, report.ended_at, one.status) == (False, None, "interrupted")
    assert [(fault.ends, fault.reason) for fault in one.faults] == [(103.0, "the runner is gone")]
    assert reported(cut, runner_lives=True).experiments[0].status == "under way"
    assert reported(BEGIN[:-1]).experiments[0].faults[0].ends is None
    assert report_of([], runner_lives=False) is None


def test_nothing_held_where_nothing_was_run() -> None:
    refused = [START, ExperimentEnd("kill-worker", 100.0, "refused", "It is outside."), RunEnd(100.0)]
    assert not reported(refused).held
    unsteady = [START, ExperimentEnd("kill-worker", 100.0, "unsteady", "ready is 503"), RunEnd(100.0)]
    assert [one.status for one in reported(unsteady).experiments] == ["unsteady"]


def test_a_journal_is_read_as_it_was_written_but_for_a_line_that_was_cut_off(tmp_path) -> None:
    journal = Journal(tmp_path)
    for event in (*BEGIN, *AWAY, *END):
        journal.append(event)
    assert [*read_journal(tmp_path)] == [*BEGIN, *AWAY, *END]
    journal.file.write_bytes(journal.file.read_bytes()[:-20])
    assert [*read_journal(tmp_path)] == [*BEGIN, *AWAY, *END[:-1]]
    assert [*read_journal(tmp_path / "none")] == []
    msgspec.json.encode(reported([*BEGIN, *AWAY, *END]))
