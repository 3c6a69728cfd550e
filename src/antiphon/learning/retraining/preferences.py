"""Gathers what people preferred of predictions: thumbs, corrections, and answers chosen beside others.

Invariants:
- The prompt of a preference is that of the prediction's receipt, byte for byte, whatever was retrieved, said or called
  in it.
- Only texts of a model that had the words which the tuned one will have are judged; what stood in for it is left out.
- What people contradict each other about is left out, and everything left out is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import msgspec

from antiphon.catalog.learning.annotations import Annotation, Annotations
from antiphon.catalog.learning.datasets import PromptPin
from antiphon.catalog.learning.models import LearnedPreferences
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.engine.api.messages import ModelDescription
from antiphon.learning.datasets.rows import RowPolicyDecision
from antiphon.learning.datasets.served_prompts import LeftOutError, ServedPrompts
from antiphon.learning.retraining.completions import served_text
from antiphon.learning.retraining.examples import declared_tuning
from antiphon.learning.retraining.plan import JudgedWindow
from antiphon.training import examples as example_files
from antiphon.training import preferences as learned
from antiphon.training.folder_seal import FolderSeal
from antiphon.training.preferences import Preference

MOST = 100_000
"""The latest thumbs, corrections and annotations that are looked at, of each."""


class OpinionOfAnswer(msgspec.Struct, frozen=True):
    """A prediction, and what people said of it.

    Attributes:
        corrected: the text it should have been. other: the prediction that it was compared with. liked: whether it was
            liked, or preferred to the other one.
    """

    prediction: str
    liked: bool = False
    corrected: str | None = None
    other: str | None = None

    @property
    def id(self) -> str:
        """Names it among all."""
        return self.prediction if self.other is None else f"{self.prediction}|{self.other}"


class JudgedText(msgspec.Struct, frozen=True):
    """A text; ``ended`` when it was not cut off."""

    text: str
    ended: bool = True


class JudgedTexts(msgspec.Struct, frozen=True):
    """A preference before it is written for a model."""

    id: str
    moment: datetime
    prompt: str
    liked: JudgedText | None = None
    disliked: JudgedText | None = None


class GatheredPreferences(msgspec.Struct, frozen=True):
    """The preferences that were found, oldest first, and why how many were left out."""

    found: tuple[JudgedTexts, ...]
    dropped: dict[str, int]

    def counted(self, sha256: str = "") -> LearnedPreferences:
        """Its numbers."""
        pairs = sum(one.liked is not None and one.disliked is not None for one in self.found)
        liked = sum(one.disliked is None for one in self.found)
        return LearnedPreferences(sha256, pairs, liked, len(self.found) - pairs - liked, self.dropped)


@dataclass(frozen=True)
class PreferenceReader:
    """Reads preferences of one scope.

    Attributes:
        texts: where receipts keep prompts and answers.
        withheld: policy about what may be learned from; ``None`` leaves nothing out.
    """

    scope: Scope
    _: KW_ONLY
    outcomes: Outcomes
    annotations: Annotations
    receipts: Receipts
    texts: Blobs
    releases: Releases
    withheld: RowPolicyDecision | None = None

    def gather(self, application: ApplicationSpec, window: JudgedWindow, most: int) -> GatheredPreferences:
        """Preferences of the predictions in a window: the latest ``most``. The same window gives the same ones, unless
        people changed what they had said."""
        pin = PromptPin.of(application, declared_tuning(application))
        of_whole = {"", *(shape.name for shape in application.shapes if shape.property is None)}
        given = [
            one
            for kind in ("thumbs", "correction")
            for one in self.outcomes.list(self.scope, application.name, status="joined", kind=kind, limit=MOST)
            if one.prediction is not None and one.outcome in of_whole
            if one.available_at <= window.known_until and one.created_at <= window.said_until
        ]
        said = self.annotations.list(self.scope, application.name, limit=MOST)
        dropped: Counter[str] = Counter()
        found: list[tuple[JudgedTexts, dict[str, str]]] = []
        for one in judgements(given, [each for each in said if each.created_at <= window.said_until]):
            if one is None:
                dropped["contradictory"] += 1
                continue
            try:
                texts, entity = self._texts(one, pin)
                if not window.first < texts.moment <= window.last:
                    raise LeftOutError("outside-window")
                found.append((texts, entity))
            except LeftOutError as reason:
                dropped[str(reason)] += 1
        kept = list(self._permitted(application, found, dropped))
        kept.sort(key=lambda one: (one.moment, one.id))
        if len(kept) > most:
            dropped["sampled-out"] += len(kept) - most
        return GatheredPreferences(tuple(kept[-most:]), dict(sorted(dropped.items())))

    def _permitted(
        self, application: ApplicationSpec, found: Sequence[tuple[JudgedTexts, dict[str, str]]], dropped: Counter[str]
    ) -> Iterator[JudgedTexts]:
        """Those that policy does not withhold."""
        if self.withheld is None or not found:
            yield from (one for one, _ in found)
            return
        keys = application.entity_keys
        rows = [(tuple(entity.get(key, "") for key in keys), int(one.moment.timestamp())) for one, entity in found]
        _, reasons = self.withheld(self.scope, application.name, keys, rows)
        for (one, _), reason in zip(found, reasons, strict=True):
            if reason is None:
                yield one
            else:
                dropped[f"policy: {reason}"] += 1

    @cached_property
    def _served(self) -> ServedPrompts:
        return ServedPrompts(self.scope, self.receipts, self.texts, self.releases)

    def _texts(self, one: OpinionOfAnswer, pin: PromptPin) -> tuple[JudgedTexts, dict[str, str]]:
        """The texts of a judgement, and its entity; raises ``LeftOutError``."""
        served = self._served
        receipt = served.receipt(one.prediction)
        other = None if one.other is None else served.receipt(one.other)
        if other is not None and _request(other) != _request(receipt):
            raise LeftOutError("other-request")
        liked = one.liked
        try:
            prompt = served.text(served.blob(receipt, pin))
        except LeftOutError as reason:
            if other is None or str(reason) not in ("other-prompt", "other-model"):
                raise
            # Two answers to one request, of which the other one's release may have the tuned model's prompt.
            prompt, receipt, other, liked = served.text(served.blob(other, pin)), other, receipt, not liked
        entity = msgspec.json.decode(served.text(receipt.entity_blob), type=dict[str, str])
        if one.corrected is not None:
            # Where a guard's words were corrected those of the person are learned, and nothing is disliked.
            said = None if self._by_guard(receipt) else self._text(receipt)
            same = said is not None and one.corrected.strip() == said.text.strip()
            disliked = None if same else said
            return JudgedTexts(one.id, receipt.as_of, prompt, JudgedText(one.corrected), disliked), entity
        text, beside = self._text(receipt), None if other is None else self._text(other)
        sides = (text, beside) if liked else (beside, text)
        return JudgedTexts(one.id, receipt.as_of, prompt, *sides), entity

    def _text(self, receipt: Receipt) -> JudgedText:
        """The words of a prediction, if a model of the application wrote them."""
        self._served.require_own(receipt)
        if self._by_guard(receipt):
            raise LeftOutError("template")
        return JudgedText(self._served.text(receipt.text_blob), receipt.finish_reason == "stop")

    def _by_guard(self, receipt: Receipt) -> bool:
        """Tells whether a guard's words are in the answer."""
        made = (receipt, self._served.first_made(receipt))
        return any(guard.action == "template" for one in made for guard in one.guards)


def _request(receipt: Receipt) -> tuple[object, ...]:
    """The request, by whatever release it was answered."""
    return receipt.application, receipt.entity_blob, receipt.question_blob, receipt.inputs_blob, receipt.as_of


def judgements(outcomes: Iterable[OutcomeRecord], annotations: Iterable[Annotation]) -> list[OpinionOfAnswer | None]:
    """One of each prediction that was judged by itself, and of each pair; ``None`` in place of a contradictory one.

    A correction says more than a thumb, and the latest correction counts.
    """
    thumbs: dict[str, set[str]] = {}
    corrected: dict[str, tuple[datetime, str]] = {}
    chosen: dict[tuple[str, str], set[bool]] = {}
    said: list[OutcomeRecord | Annotation] = [*outcomes, *annotations]
    for one in said:
        prediction = one.prediction
        assert prediction is not None  # gather
        if one.kind == "thumbs":
            thumbs.setdefault(prediction, set()).add(one.value)
        elif one.kind == "correction":
            latest = one.created_at, one.value
            corrected[prediction] = max(corrected.get(prediction, latest), latest)
        elif isinstance(one, Annotation) and one.kind == "preference" and one.other is not None and one.value != "tie":
            pair = min(prediction, one.other), max(prediction, one.other)
            chosen.setdefault(pair, set()).add((one.value == "this") == (pair[0] == prediction))
    found: list[OpinionOfAnswer | None] = [
        OpinionOfAnswer(name, liked=True, corrected=text) for name, (_, text) in sorted(corrected.items())
    ]
    for pair, first in sorted(chosen.items()):
        found.append(OpinionOfAnswer(pair[0], liked=True in first, other=pair[1]) if len(first) == 1 else None)
    for name, values in sorted(thumbs.items()):
        if name not in corrected:
            found.append(OpinionOfAnswer(name, liked="up" in values) if len(values) == 1 else None)
    return found


def write(
    path: Path, gathered: GatheredPreferences, application: ApplicationSpec, model: ModelDescription, seal: FolderSeal
) -> LearnedPreferences:
    """Write the file that a training learns from.

    Raises:
        InvalidInputError: nothing is left to learn from.
    """
    written, kept = list[Preference](), list[JudgedTexts]()
    for one in gathered.found:
        try:
            liked, disliked = (
                () if side is None else served_text(side.text, application, model, ended=side.ended)
                for side in (one.liked, one.disliked)
            )
        except InvalidInputError:  # It is made of the model's special tokens.
            continue
        whole = bool(liked) == (one.liked is not None) and bool(disliked) == (one.disliked is not None)
        if whole and liked != disliked:
            written.append(Preference(one.id, one.prompt, liked, disliked))
            kept.append(one)
    learned.check(written)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sha256 = example_files.write(path, written, seal)
    unwritten = {"unwritten": len(gathered.found) - len(kept)} if len(kept) < len(gathered.found) else {}
    return GatheredPreferences(tuple(kept), gathered.dropped | unwritten).counted(sha256)
