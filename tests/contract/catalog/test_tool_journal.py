from __future__ import annotations

from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.serving.tool_journal import ToolJournal


def test_a_call_has_one_result_and_the_first_stays(database: Database) -> None:
    journal = ToolJournal(database)
    assert journal.begin(DEV, "k1", "send") is None
    assert journal.begin(DEV, "k1", "send") is None, "it may have been made, and its result is not known"
    journal.finish(DEV, "k1", "sent")
    journal.finish(DEV, "k1", "sent twice")
    assert journal.begin(DEV, "k1", "send") == "sent"


def test_a_call_is_of_its_scope(database: Database) -> None:
    journal = ToolJournal(database)
    journal.begin(DEV, "k1", "send")
    journal.finish(DEV, "k1", "sent")
    assert journal.begin(OTHER, "k1", "send") is None
    journal.finish(OTHER, "k1", "another")
    assert journal.begin(DEV, "k1", "send") == "sent"


def test_what_was_never_begun_is_not_finished(database: Database) -> None:
    journal = ToolJournal(database)
    journal.finish(DEV, "k1", "sent")
    assert journal.begin(DEV, "k1", "send") is None
