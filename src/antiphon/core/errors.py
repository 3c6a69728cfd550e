"""One tree of errors: each says what was wrong, where, and what to do next.

The HTTP status, the process exit code and the OpenAI-shaped ``type`` hang on the class, so that the
gateway and the command line translate without deciding anything.

OpenAI's clients repeat a request that was answered 408, 409, 429 or 5xx. Those are for what a repetition may mend, and
say after how long; what is wrong with data, state or request is another 4xx.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite


class AntiphonError(Exception):
    """Base of every error Antiphon raises on purpose.

    Args:
        what: what was wrong, one sentence that names its subject: clients print it without ``where``.
        where: the file, field, parameter or process it concerns.
        next_step: what the reader can do about it.
    """

    http_status = 500
    exit_code = 1
    code = "internal_error"
    kind = "server_error"
    retry_after: float | None = None
    """Seconds after which asking again makes sense, when that is known."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    @property
    def transient(self) -> bool:
        """Tell whether the same work may succeed when it is repeated: something was away, full, or held by another."""
        return self.retry_after is not None and isfinite(self.retry_after)

    @property
    def of_platform(self) -> bool:
        """Tell whether the platform failed, or had no room; otherwise the caller asked for what it cannot have."""
        return self.kind in ("server_error", "rate_limit_error")

    @property
    def located(self) -> str:
        """The sentence that says what was wrong, after the place unless the sentence names it."""
        return self.what if not self.where or self.where in self.what else f"{self.where}: {self.what}"

    def __str__(self) -> str:
        return f"{self.located} {self.next_step}" if self.next_step else self.located


class InternalError(AntiphonError):
    """A fault of Antiphon: reported by its type and a reference to the log, never by its message."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h: nothing that a command finds on purpose ends with it


class InvalidInputError(AntiphonError):
    """The caller sent something that cannot be used."""

    http_status = 400
    exit_code = 2
    code = "invalid_input"
    kind = "invalid_request_error"


class UnsupportedParameterError(InvalidInputError):
    """A parameter that is unknown or that this server does not implement."""

    code = "unsupported_parameter"


class PromptTooLongError(InvalidInputError):
    """Prompt and requested tokens do not fit the model's context."""

    code = "context_length_exceeded"


class UnservableReleaseError(InvalidInputError):
    """A release that cannot answer, whoever asks: it is wrong, and no caller; the same request fails again."""

    http_status = 422
    code = "release_unservable"
    kind = "server_error"


class PromptFailedError(UnservableReleaseError):
    """An application's own template fails."""

    code = "prompt_failed"


class UnsatisfiableSchemaError(InvalidInputError):
    """An output schema that no text, or no text of the permitted length, can meet."""

    code = "schema_unsatisfiable"


class EmbeddingModelMismatchError(InvalidInputError):
    """Vectors of different embedding models, which mean nothing to each other."""

    code = "other_embedding_model"


class InvalidDefinitionsError(InvalidInputError):
    """Every problem of a project's definitions at once, each with its file and line."""

    code = "invalid_definitions"

    def __init__(self, problems: Sequence[str]) -> None:
        listed = "\n  ".join(problems)
        super().__init__(
            f"{len(problems)} problem(s) in the definitions:\n  {listed}",
            next_step="\nMend them and run `antiphon plan` again.",
        )
        self.problems = tuple(problems)


class UnsatisfiableRangeError(InvalidInputError):
    """A range of bytes that begins after the end of what is read."""

    http_status = 416
    code = "range_not_satisfiable"


class UnauthenticatedError(AntiphonError):
    """No key, or a key that is unknown, expired or revoked."""

    http_status = 401
    exit_code = 4
    code = "invalid_api_key"
    kind = "authentication_error"


class ForbiddenError(AntiphonError):
    """Policy said no."""

    http_status = 403
    exit_code = 4
    code = "forbidden"
    kind = "permission_error"


class NotFoundError(AntiphonError):
    """The named thing does not exist in this tenant and environment."""

    http_status = 404
    exit_code = 3
    code = "not_found"
    kind = "invalid_request_error"


class ConflictError(AntiphonError):
    """The state of what is named does not permit this: it ended, exists already, or is in use.

    The same request fails again until something else was done. :class:`WriteConflictError` is the one that may be
    repeated.
    """

    http_status = 422
    exit_code = 5
    code = "conflict"
    kind = "invalid_request_error"


class WriteConflictError(ConflictError):
    """Another process changed or held it in the same moment; the same request may succeed when it is repeated."""

    http_status = 409
    code = "write_conflict"
    retry_after = 1.0


class FeatureUnavailableError(AntiphonError):
    """An entity of which nothing is known; a repeated request finds the same."""

    http_status = 422
    exit_code = 5
    code = "feature_unavailable"
    kind = "invalid_request_error"


class FeaturesNotReadyError(FeatureUnavailableError):
    """Features are not published, or staler than their freshness contract accepts: no caller can help it."""

    kind = "server_error"


class TooLargeError(AntiphonError):
    """A body or a file past its declared bound."""

    http_status = 413
    exit_code = 2
    code = "too_large"
    kind = "invalid_request_error"


class InvalidOutputError(AntiphonError):
    """The model's output failed its schema or guards and no fallback is declared."""

    http_status = 422
    code = "output_invalid"


class GuardRefusedError(InvalidOutputError):
    """A guard keeps the model's text from being served, and its action is to refuse."""

    code = "guard_refused"


class OverloadedError(AntiphonError):
    """Admission refused: try again after ``retry_after`` seconds."""

    http_status = 429
    exit_code = 6
    code = "overloaded"
    kind = "rate_limit_error"

    def __init__(
        self, what: str, *, retry_after: float = 1.0, where: str | None = None, next_step: str | None = None
    ) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.retry_after = retry_after


class RateLimitError(OverloadedError):
    """A quota of the caller's key is used up; an infinite ``retry_after``: it is never let in."""

    code = "rate_limit_exceeded"

    def __init__(self, what: str, *, retry_after: float, where: str, next_step: str) -> None:
        super().__init__(what, retry_after=retry_after, where=where, next_step=next_step)
        self.kind = "requests" if where.startswith("requests") else "tokens"


class BudgetExhaustedError(OverloadedError):
    """A budget has no room for what may be charged; an infinite ``retry_after``: it never has. Named as in OpenAI's
    API, whose clients know it."""

    code = "insufficient_quota"
    kind = "insufficient_quota"


class ResourceUnavailableError(OverloadedError):
    """No room for work that takes what others leave (``service_tier: flex``)."""

    code = "resource_unavailable"


class EngineError(AntiphonError):
    """The engine died or failed in the middle of an answer."""

    http_status = 502
    exit_code = 6
    code = "engine_failed"
    retry_after = 1.0


class UnavailableError(AntiphonError):
    """A part the request needs (engine, catalog, online store) is away."""

    http_status = 503
    exit_code = 6
    code = "unavailable"
    retry_after = 1.0


class PrecomputedOnlyError(UnavailableError):
    """The application answers from store alone for a time, and has nothing in store for this question."""

    code = "precomputed_only"

    def __init__(self, what: str, *, retry_after: float = 1.0, where: str | None = None, next_step: str) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.retry_after = retry_after


class ProjectMovedError(UnavailableError):
    """The project's stores are others by now than those that this process has open; it begins again with them."""


class StorageFullError(UnavailableError):
    """A disk, or a quota of one, has no room for what must be written."""

    http_status = 507
    code = "storage_full"
    retry_after = 60.0


class DeadlineExceededError(AntiphonError):
    """The work did not finish within its bound."""

    http_status = 504
    exit_code = 6
    code = "deadline_exceeded"
    retry_after = 1.0


class CorruptionError(AntiphonError):
    """Stored bytes do not match their hash, schema or key."""

    code = "corrupt"


class SealMismatchError(CorruptionError):
    """A stored value does not match its own seal or checksum: it was changed, which a missing key does not do to it."""


class SetupError(AntiphonError):
    """The machine lacks something: a library, a file, disk space, a free port."""

    http_status = 503
    exit_code = 7
    code = "setup"
