"""Metrics of one process's answers, online and batch alike: counted by their receipts, once these are committed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter

from antiphon.catalog.serving.receipt import STAND_IN_ROLES, Receipt
from antiphon.core.histograms import Histogram
from antiphon.core.logs import without_credentials

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

MOST_APPLICATIONS = 1_000
"""Names of all tenants that get a label of their own; what comes after them is counted together as :data:`OTHERS`."""
OTHERS = "others"


class AnswerMetrics:
    """Counts and times answers. ``path`` is ``online`` or ``batch``; ``role`` is the one of the receipt.

    Seconds are wall seconds: of an online answer from the request's arrival to its first and last byte, as the gateway
    sends them; of a batch row to the whole text.
    """

    def __init__(self) -> None:
        self._labels: set[tuple[str, str]] = set()
        registry = self.registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        of_application = ("tenant", "application")
        by_path, timed = (*of_application, "path"), (*of_application, "path", "origin")
        seconds = partial(Histogram, labels=timed, registry=registry, bounds=BUCKETS)
        self._first_byte = seconds("antiphon_first_byte_seconds", "Arrival to first byte.")
        self._total = seconds("antiphon_answer_seconds", "Arrival to last byte; of a batch row, to the whole text.")
        self._answers = counter("antiphon_answers", "Answers whose receipt is committed.", (*by_path, "origin", "role"))
        self._tokens = counter("antiphon_tokens", "Tokens by kind.", (*by_path, "kind"))
        self._releases = counter(
            "antiphon_release_requests",
            "Online requests that a release was to answer, and those that failed, were invalid, generated or late.",
            (*of_application, "release", "event"),
        )
        self._engine = counter("antiphon_engine_seconds", "Engine seconds of answers.", by_path)
        self._saved = counter(
            "antiphon_saved_tokens", "Tokens that reused answers did not compute again.", (*of_application, "origin")
        )
        self._stand_ins = counter(
            "antiphon_stand_ins",
            "Answers of another engine (fallback) or from store because none answered (degraded).",
            (*of_application, "role"),
        )

    def answered(self, receipt: Receipt) -> None:
        """Count an answer. A batch row is timed too; when an online answer's bytes leave, only the gateway knows."""
        path, origin = receipt.path, receipt.cache.origin
        owner = receipt.scope.tenant, self.label(receipt.scope.tenant, receipt.application)
        self._answers.labels(*owner, path, origin, receipt.role).inc()
        self._tokens.labels(*owner, path, "prompt").inc(receipt.usage.prompt_tokens)
        self._tokens.labels(*owner, path, "completion").inc(receipt.usage.completion_tokens)
        self._engine.labels(*owner, path).inc(receipt.usage.engine_seconds)
        if receipt.role in STAND_IN_ROLES:
            self._stand_ins.labels(*owner, receipt.role).inc()
        elif receipt.cache.saved_tokens:
            self._saved.labels(*owner, origin).inc(receipt.cache.saved_tokens)
        if path != "online":
            self._total.observe((*owner, path, origin), receipt.timing.total)

    def released(self, tenant: str, application: str, release: str, events: Iterable[str]) -> None:
        """Count the events of one request that a release was to answer."""
        for event in events:
            self._releases.labels(tenant, self.label(tenant, application), release, event).inc()

    def sent(self, tenant: str, application: str, origin: str, first_byte: float | None, total: float) -> None:
        """Time an answer of the online path."""
        labels = tenant, self.label(tenant, application), "online", origin
        self._total.observe(labels, total)
        if first_byte is not None:
            self._first_byte.observe(labels, first_byte)

    def label(self, tenant: str, application: str) -> str:
        """The label of a tenant's application.

        A request may fail before it is known whether its name exists (overload, say): the name alone proves nothing,
        and may be a key in the wrong place.
        """
        application = without_credentials(application)
        if (tenant, application) not in self._labels:
            if len(self._labels) >= MOST_APPLICATIONS:
                return OTHERS
            self._labels.add((tenant, application))
        return application
