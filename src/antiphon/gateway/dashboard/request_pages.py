"""The page *Requests*: predictions that are searched by facets, span, entity and text. It changes nothing.

Invariant: the address says all of what is shown; a link to another facet, span or page keeps the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import RedirectResponse, Response

from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES
from antiphon.catalog.serving.receipt_search import FACETS, FacetCounts, Place
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.gateway.dashboard.pages import SAFE, SPANS, PageCall, moment_of
from antiphon.services.prediction_search import PredictionPage, PredictionSearch

PAGE = 40
LONGEST = 300
_MOST_VALUES = 12
"""The rarer values of a facet are shown by choosing others first."""

_TITLES = {
    "application": "Application", "release": "Release", "path": "Path", "role": "Served as", "origin": "Origin",
    "verdict": "Guards", "finish_reason": "Ended by", "model": "Model",
}  # fmt: skip
_EMPTY = {"model": "none", "verdict": "no guards", "finish_reason": "none"}


def requests(call: PageCall) -> Response:
    """Predictions, newest first; without a chosen role those that users saw."""
    query = {name: call.query.get(name, "").strip() for name in ("span", "until", "entity", "text", "before")}
    if query["text"].startswith("pred_"):
        return RedirectResponse(f"/requests/{quote(query['text'], safe='')}", 303, headers=SAFE)
    chosen = {facet: tuple(dict.fromkeys(call.query.getlist(facet))) for facet in FACETS}
    search = _search(call, query, chosen)
    found, problem = PredictionPage((), None), None
    service = call.services.predictions.search
    try:
        found = service.page(call.scope, call.principal, search, PAGE, _place(query["before"]))
    except AntiphonError as error:
        if search.text == "" or service.readable_texts():
            raise
        problem = error
    address, counts = _Address(query, chosen), service.counts(call.scope, search)
    return call.render(
        "requests.html",
        problem,
        page="requests",
        receipts=found.receipts,
        read=found.read,
        older=None if found.behind is None else address(before=_named(found.behind)),
        here=address(before=""),
        newest=address(before="") if query["before"] else None,
        facets=_facets(counts, chosen, address),
        counts=counts,
        chosen={facet: values for facet, values in chosen.items() if values},
        spans=[(name, address(span=name, until="", before="")) for name in ("", *SPANS)],
        query=query,
        by_text=service.readable_texts(),
        narrowed=any(chosen.values()) or any(query.values()),
    )


class _Address:
    """Makes addresses of the page that differ in some parameters."""

    def __init__(self, query: Mapping[str, str], chosen: Mapping[str, Sequence[str]]) -> None:
        self._query = query
        self._chosen = chosen

    def __call__(self, facet: str = "", values: Sequence[str] = (), **changes: str) -> str:
        chosen = {**self._chosen, **({facet: values} if facet else {})}
        pairs = [(name, value) for name, some in chosen.items() for value in some]
        pairs += [(name, value) for name, value in {**self._query, **changes}.items() if value]
        return "/requests" + (f"?{urlencode(pairs)}" if pairs else "")


def _search(call: PageCall, query: Mapping[str, str], chosen: Mapping[str, tuple[str, ...]]) -> PredictionSearch:
    for name, text in [*query.items(), *((name, value) for name, some in chosen.items() for value in some)]:
        if len(text) > LONGEST:
            raise InvalidInputError(f"{len(text)} characters are too many.", where=name, next_step="Write less.")
    span, until = query["span"], moment_of(query["until"])
    if span and span not in SPANS:
        raise InvalidInputError(f"{span!r} is no span.", where="span", next_step=f"Choose one of {', '.join(SPANS)}.")
    if any(value not in ("online", "batch") for value in chosen["path"]):
        raise InvalidInputError("There is no such path.", where="path", next_step="Choose online or batch.")
    since = (until or call.services.clock.now()) - SPANS[span] if span else None
    return PredictionSearch(chosen, since, until, _entity(query["entity"]), query["text"])


def _entity(text: str) -> dict[str, str] | None:
    """``shop=bakery, city=Rome`` as keys."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(separator and name.strip() for name, separator, _ in pairs):
        raise InvalidInputError(f"{text!r} names no entity.", where="entity", next_step="Write shop=bakery.")
    return {name.strip(): value.strip() for name, _, value in pairs} or None


def _facets(
    counts: FacetCounts, chosen: Mapping[str, tuple[str, ...]], address: _Address
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Titles of facets with what may be chosen of each; a chosen value is one to leave out again."""
    found = []
    for facet, title in _TITLES.items():
        values, lines = chosen[facet], []
        for one in [one for one in counts.values[facet] if one.count or one.value in values][:_MOST_VALUES]:
            on = one.value in values
            rest = tuple(value for value in values if value != one.value) if on else (*values, one.value)
            lines.append(
                {
                    "name": one.value or _EMPTY.get(facet, "none"),
                    "count": one.count,
                    "on": on,
                    "address": address(facet, rest, before=""),
                    "unseen": facet == "role" and one.value not in SEEN_ROLES + STAND_IN_ROLES,
                }
            )
        found.append((title, lines))
    return found


def _named(place: Place) -> str:
    return f"{place.created_at.isoformat()}~{place.prediction}"


def _place(text: str) -> Place | None:
    at, _, prediction = text.partition("~")
    moment = moment_of(at)
    return None if moment is None else Place(moment, prediction)
