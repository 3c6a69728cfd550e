"""Search of predictions by facets, span, entity and text.

Invariant: a text is looked at only where payloads are stored in the clear, and only a prediction that policy lets the
reader read is found by it; so a search tells nothing that the prediction's own page would not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES, Receipt
from antiphon.catalog.serving.receipt_search import FACETS, FacetCounts, Place
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.protection import mode_of
from antiphon.governance.identity.principal import Principal
from antiphon.services.project.store import Store
from antiphon.serving.answering.context import subject_of
from antiphon.serving.records import Records

MOST_READ = 400
"""Predictions whose texts one page of a search by text looks through."""
_AT_ONCE = 100


class PredictionSearch(msgspec.Struct, frozen=True):
    """Conditions of a search; those that are given are all to hold.

    Attributes:
        facets: to the values of which a prediction has one; a facet without values does not matter. Without roles,
            those in which an answer reached a user.
        entity: the keys of the entity that a prediction is about.
        text: a part of the question or the answer, in any case of letters.
    """

    facets: Mapping[str, tuple[str, ...]] = {}
    since: datetime | None = None
    until: datetime | None = None
    entity: Mapping[str, str] | None = None
    text: str = ""


class PredictionPage(msgspec.Struct, frozen=True):
    """Predictions, newest first.

    Attributes:
        behind: the place to go on from; ``None`` at the end.
        read: predictions whose texts were looked through.
    """

    receipts: tuple[Receipt, ...]
    behind: Place | None
    read: int = 0


class ProjectPredictionSearch:
    """Searches the predictions of a project. ``records``: rights to what they say."""

    def __init__(self, store: Store, records: Records) -> None:
        self._store = store
        self._records = records

    def readable_texts(self) -> bool:
        """Tells whether texts can be searched: they are not sealed."""
        settings = self._store.settings
        return mode_of(settings.encryption, settings.project.environment) == "plaintext"

    def counts(self, scope: Scope, search: PredictionSearch) -> FacetCounts:
        """Counts by the values of each facet, of what the search finds before its text is looked for."""
        return self._store.receipt_search.counts(
            scope, _chosen(search), search.since, search.until, self._subject(scope, search)
        )

    def page(
        self, scope: Scope, who: Principal, search: PredictionSearch, limit: int, before: Place | None = None
    ) -> PredictionPage:
        """At most so many predictions from behind a place on. Of a search by text it is shorter where the next ones to
        look through are many.

        Raises:
            InvalidInputError: there is no such facet, or texts are sealed here.
        """
        if search.text and not self.readable_texts():
            raise InvalidInputError(
                "The texts of predictions are sealed here, and cannot be searched.",
                where="text",
                next_step="Search by entity, release, guard and time; a prediction's own page shows its text.",
            )
        if search.text:
            return self._by_text(scope, who, search, limit, before)
        found = self._next(scope, search, limit + 1, before)
        return PredictionPage(tuple(found[:limit]), _place(found[limit - 1]) if len(found) > limit else None)

    def _by_text(
        self, scope: Scope, who: Principal, search: PredictionSearch, limit: int, before: Place | None
    ) -> PredictionPage:
        found: list[Receipt] = []
        read, behind = 0, before
        while read < MOST_READ:
            some = self._next(scope, search, _AT_ONCE, behind)
            for receipt in self._saying(scope, who, search.text, some):
                found.append(receipt)
                if len(found) == limit:
                    return PredictionPage(tuple(found), _place(receipt), read + some.index(receipt) + 1)
            read += len(some)
            if len(some) < _AT_ONCE:
                return PredictionPage(tuple(found), None, read)
            behind = _place(some[-1])
        return PredictionPage(tuple(found), behind, read)

    def _saying(self, scope: Scope, who: Principal, text: str, receipts: Sequence[Receipt]) -> Iterator[Receipt]:
        names = [(one, [one.text_blob, *([one.question_blob] if one.question_blob else [])]) for one in receipts]
        texts = self._store.blobs.get_many(scope, [name for _, each in names for name in each])
        sought = text.casefold()
        for receipt, each in names:
            said = (texts.get(name, b"").decode(errors="replace").casefold() for name in each)
            if any(sought in one for one in said) and self._records.may_read_prediction(scope, who, receipt, {}):
                yield receipt

    def _next(self, scope: Scope, search: PredictionSearch, limit: int, before: Place | None) -> list[Receipt]:
        return self._store.receipt_search.page(
            scope, _chosen(search), limit, search.since, search.until, self._subject(scope, search), before
        )

    def _subject(self, scope: Scope, search: PredictionSearch) -> str | None:
        return subject_of(self._store.secret("subject"), scope, search.entity) if search.entity else None


def _chosen(search: PredictionSearch) -> dict[str, tuple[str, ...]]:
    chosen = {facet: values for facet, values in search.facets.items() if values}
    for facet in chosen:
        if facet not in FACETS:
            raise InvalidInputError(
                f"{facet!r} is no facet.", where="facets", next_step=f"Choose among {', '.join(FACETS)}."
            )
    return {"role": SEEN_ROLES + STAND_IN_ROLES, **chosen}


def _place(receipt: Receipt) -> Place:
    return Place(receipt.created_at, receipt.prediction)
