"""The request as guards see it beside a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class EarlierEvidence(msgspec.Struct, frozen=True):
    """An earlier turn of the conversation: its question, and its features as they were printed then."""

    question: str
    prints: Mapping[str, str | None]


class Evidence(msgspec.Struct, frozen=True):
    """The request beside which guards see a text: its printed features, keys, question and inputs, the chunks of
    documents that were retrieved for it, the results of its tools, and the earlier turns of its conversation."""

    prints: Mapping[str, str | None]
    entity: Mapping[str, str]
    question: str = ""
    inputs: Mapping[str, Any] = {}
    retrieved: tuple[Mapping[str, Any], ...] = ()
    earlier: tuple[EarlierEvidence, ...] = ()
    results: tuple[str, ...] = ()

    def documents(self) -> Iterable[str]:
        """Every text of the request."""
        yield self.question
        yield from self.entity.values()
        yield from map(str, self.inputs.values())
        yield from (text for text in self.prints.values() if text is not None)
        yield from (f"{chunk['title']} {chunk['text']}" for chunk in self.retrieved)
        yield from self.results
        for turn in self.earlier:
            yield turn.question
            yield from (text for text in turn.prints.values() if text is not None)
