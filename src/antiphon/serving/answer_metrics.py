"""Metrics of one process's answers, online and batch alike: counted by their receipts, once these are committed."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram

from antiphon.catalog.serving.receipt import STAND_IN_ROLES, Receipt
from antiphon.core.logs import without_credentials

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

MOST_APPLICATIONS = 1_000
"""Names that get a label of their own; whatever comes after them is counted together as :data:`OTHERS`."""
OTHERS = "others"


class AnswerMetrics:
    """Counts and times answers. ``path`` is ``online`` or ``batch``; ``role`` is the one of the receipt.

    Seconds are wall seconds: of an online answer from the request's arrival to its first and last byte, as the gateway
    sends them; of a batch row to the whole text.
    """

    def __init__(self) -> None:
        self._labels: set[str] = set()
        registry = self.registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        by_path, timed = ("application", "path"), ("application", "path", "origin")
        seconds = partial(Histogram, labelnames=timed, registry=registry, buckets=BUCKETS)
        self._first_byte = seconds("antiphon_first_byte_seconds", "Arrival to first byte.")
        self._total = seconds("antiphon_answer_seconds", "Arrival to last byte; of a batch row, to the whole text.")
        self._answers = counter(
            "antiphon_answers", "Answers whose receipt is committed.", ("application", "path", "origin", "role")
        )
        self._tokens = counter("antiphon_tokens", "Tokens by kind.", (*by_path, "kind"))
        self._engine = counter("antiphon_engine_seconds", "Engine seconds of answers.", by_path)
        self._saved = counter(
            "antiphon_saved_tokens", "Tokens that reused answers did not compute again.", ("application", "origin")
        )
        self._stand_ins = counter(
            "antiphon_stand_ins",
            "Answers of another engine (fallback) or from store because none answered (degraded).",
            ("application", "role"),
        )

    def answered(self, receipt: Receipt) -> None:
        """Count an answer. A batch row is timed too; when an online answer's bytes leave, only the gateway knows."""
        application, path, origin = self.label(receipt.application), receipt.path, receipt.cache.origin
        self._answers.labels(application, path, origin, receipt.role).inc()
        self._tokens.labels(application, path, "prompt").inc(receipt.usage.prompt_tokens)
        self._tokens.labels(application, path, "completion").inc(receipt.usage.completion_tokens)
        self._engine.labels(application, path).inc(receipt.usage.engine_seconds)
        if receipt.role in STAND_IN_ROLES:
            self._stand_ins.labels(application, receipt.role).inc()
        elif receipt.cache.saved_tokens:
            self._saved.labels(application, origin).inc(receipt.cache.saved_tokens)
        if path != "online":
            self._total.labels(application, path, origin).observe(receipt.timing.total)

    def sent(self, application: str, origin: str, first_byte: float | None, total: float) -> None:
        """Time an answer of the online path."""
        application = self.label(application)
        self._total.labels(application, "online", origin).observe(total)
        if first_byte is not None:
            self._first_byte.labels(application, "online", origin).observe(first_byte)

    def label(self, application: str) -> str:
        """The label of an application.

        A request may fail before it is known whether its name exists (overload, say): the name alone proves nothing,
        and may be a key in the wrong place.
        """
        application = without_credentials(application)
        if application not in self._labels:
            if len(self._labels) >= MOST_APPLICATIONS:
                return OTHERS
            self._labels.add(application)
        return application
