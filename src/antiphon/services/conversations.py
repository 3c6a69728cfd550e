"""Conversations of applications: listed, shown, and deleted by who had them or by an administrator."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime

import msgspec

from antiphon.catalog.serving.conversations import ConversationRecord, ConversationTurn
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.services.project.store import Store
from antiphon.serving.answering.context import subject_of
from antiphon.serving.records import Records


class ConversationDetail(msgspec.Struct, frozen=True):
    """A conversation with its turns."""

    conversation: ConversationRecord
    turns: tuple[ConversationTurn, ...]


class ConversationDeletion(msgspec.Struct, frozen=True):
    """Counts of what was deleted, or with ``dry_run`` would be; ``texts`` of receipts, where they were to go too, with
    what people wrote of the answers (``remarks``: annotations, and outcomes that are texts) and the regression
    ``cases`` that were made from them."""

    conversations: int
    turns: int
    texts: int
    dry_run: bool
    remarks: int = 0
    cases: int = 0


class ProjectConversations:
    """Conversations of a project, for a principal.

    Args:
        records: rights to the answers in them.
    """

    def __init__(self, store: Store, records: Records) -> None:
        self._store = store
        self._records = records

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        entity: Mapping[str, str] | None = None,
        before: datetime | None = None,
        limit: int = 50,
    ) -> builtins.list[ConversationRecord]:
        """Conversations, the latest first; of one entity, if its keys are given."""
        subject = self._subject(scope, entity) if entity else None
        return self._store.conversations.list(scope, application, subject=subject, before=before, limit=limit)

    def show(self, scope: Scope, who: Principal, id: str) -> ConversationDetail:
        """A conversation with its turns, for who may read the record of each of its answers.

        Raises:
            NotFoundError: there is none of this id here.
            ForbiddenError: policy keeps an answer of it from this principal.
        """
        record = self._store.conversations.get(scope, id)
        turns = self._store.conversations.turns(scope, id)
        for turn in turns:
            if turn.prediction:
                self._records.require_prediction(scope, who, turn.prediction)
        return ConversationDetail(record, tuple(turns))

    def author(self, scope: Scope, who: Principal, id: str) -> str | None:
        """The principal that was answered last in a conversation; raises as :meth:`show` does."""
        turns = self.show(scope, who, id).turns
        receipts = [self._receipt(scope, turn.prediction) for turn in turns if turn.prediction]
        return receipts[-1].principal if receipts and receipts[-1] is not None else None

    def delete(
        self, scope: Scope, id: str, *, by: str, texts: bool = False, dry_run: bool = False
    ) -> ConversationDeletion:
        """Delete a conversation with its turns, so that it can neither be read nor gone on with. The receipts of its
        answers stay; with ``texts`` theirs are erased too, also from other receipts that have the same, with what
        people wrote of the answers and the regression cases that were made from them.

        Raises:
            NotFoundError: there is none of this id here.
        """
        record = self._store.conversations.get(scope, id)
        return self._deleted(scope, [record], by=by, texts=texts, dry_run=dry_run)

    def forget(
        self, scope: Scope, entity: Mapping[str, str], *, by: str, texts: bool = False, dry_run: bool = False
    ) -> ConversationDeletion:
        """Delete every conversation about an entity, as :meth:`delete` does."""
        found: builtins.list[ConversationRecord] = []
        while page := self._store.conversations.list(
            scope, subject=self._subject(scope, entity), before=found[-1].updated_at if found else None, limit=1_000
        ):
            found += page
        return self._deleted(scope, found, by=by, texts=texts, dry_run=dry_run)

    def _deleted(
        self, scope: Scope, records: builtins.list[ConversationRecord], *, by: str, texts: bool, dry_run: bool
    ) -> ConversationDeletion:
        store, turns, erased, remarks, cases = self._store, 0, 0, 0, 0
        for record in records:
            if texts:
                named, predictions = self._named(scope, record.id)
                if dry_run:
                    erased += len(named)
                    remarks += len(store.annotations.of_predictions(scope, predictions))
                    remarks += len(store.outcomes.texts(scope, predictions))
                    cases += sum(len(store.regressions.of_prediction(scope, one)) for one in predictions)
                else:
                    erased += sum(store.blobs.erase(scope, blob) for blob in sorted(named))
                    remarks += store.annotations.remove_all(scope, predictions)
                    remarks += store.outcomes.erase_texts(scope, predictions)
                    cases += store.regressions.erase_all(
                        scope, predictions, author=by, reason="the texts of its conversation were erased"
                    )
            # Last, for the conversation says where the rest is: what a crash leaves is found again.
            turns += record.turns if dry_run else store.conversations.delete(scope, record.id)
        if records and not dry_run:
            store.database.erase_free_space()
        return ConversationDeletion(len(records), turns, erased, dry_run, remarks, cases)

    def _named(self, scope: Scope, id: str) -> tuple[set[str], tuple[str, ...]]:
        """Texts that the receipts of a conversation's answers name, and these predictions."""
        found: set[str | None] = set()
        turns = self._store.conversations.turns(scope, id)
        for turn in turns:
            receipt = self._receipt(scope, turn.prediction) if turn.prediction else None
            if receipt is None:
                continue
            own = receipt.conversation
            attempts = (*receipt.attempts, *receipt.decisions, *(own.summaries if own is not None else ()))
            found |= {blob for attempt in attempts for blob in (attempt.prompt_blob, attempt.text_blob)}
            found |= {receipt.question_blob, receipt.text_blob, receipt.turn_blob, receipt.inputs_blob}
            found |= {blob for one in receipt.tools for blob in (one.arguments_blob, one.result_blob)}
            found.add(own.summary_blob if own is not None else None)
        texts = {blob for blob in found if blob is not None}
        return texts, tuple(one.prediction for one in turns if one.prediction)

    def _receipt(self, scope: Scope, prediction: str) -> Receipt | None:
        try:
            return self._store.receipts.get(scope, prediction)
        except NotFoundError:
            return None

    def _subject(self, scope: Scope, entity: Mapping[str, str]) -> str:
        return subject_of(self._store.secret("subject"), scope, entity)
