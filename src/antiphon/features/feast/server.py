"""Feast's feature server, asked for online values: ``POST /get-online-features``, Feast's public interface.

The store behind it is not read: its keys and values are serialized in ways that differ between Feast's releases and
stores, while this endpoint has stayed. Features are always named one by one, never by a feature service: for a service
with precomputed vectors Feast answers with the time of precomputing in place of the event's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from antiphon.core.circuit_breaker import CircuitBreaker, consecutive_failures
from antiphon.core.errors import AntiphonError, FeatureUnavailableError, InvalidInputError, UnavailableError
from antiphon.core.http_client import HttpClient, HttpResponse, ResponseError
from antiphon.core.tls import ClientTls

_MOST_BYTES = 64_000_000
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z\Z")
_AWAY = frozenset({408, 429, 502, 503, 504})
"""Statuses of a proxy in front of the server, or of an overloaded server."""
_WRONG_KEY = (b"invalid literal for", b"could not convert", b"has type str, but expected")
_NO_FEATURE = b"not found in projection"
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})

Value = float | int | str | bool | None


class OnlineValue(msgspec.Struct, frozen=True):
    """One feature of one entity. Without an event time Feast knows no row of this entity."""

    value: Value
    event_time: datetime | None


class _Metadata(msgspec.Struct):
    feature_names: list[str] = []


class _ResponseColumn(msgspec.Struct):
    values: list[Any] = []
    statuses: list[str] = []
    event_timestamps: list[str] = []


class _Response(msgspec.Struct):
    results: list[_ResponseColumn]
    metadata: _Metadata


_decoder = msgspec.json.Decoder(_Response)


class FeastServer:
    """One feature server. Safe to share between threads; close it when done.

    Args:
        url: where it listens.
        token: bearer token, if it wants one.
        timeout: seconds until an answer must be there.
        failures, retry: after so many failures in a row the server is not called for so many seconds.
        tls: whom to trust when the URL is https.

    Raises:
        InvalidInputError: a URL that is not called, or a token that would cross a network in plain text.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 0.5,
        failures: int = 5,
        retry: float = 5.0,
        tls: ClientTls | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = HttpClient(
            url.rstrip("/"),
            where="feast.url",
            secret=token is not None,
            timeout=timeout,
            most_bytes=_MOST_BYTES,
            headers={"authorization": f"Bearer {token}"} if token else {},
            tls=tls,
        )
        self.url = url.rstrip("/")
        self._where = f"Feast at {self.url}"
        self._timeout = timeout
        self._breaker = CircuitBreaker(self._where, consecutive_failures(failures, retry), monotonic)

    def read(
        self, features: Sequence[tuple[str, str]], entities: Mapping[str, Sequence[Any]]
    ) -> list[dict[tuple[str, str], OnlineValue]]:
        """Values of features, ``(view, feature)`` each, for entities in rows.

        Args:
            entities: join key to its value in each row; a key is a text or a whole number, as its entity's type is.

        Raises:
            UnavailableError: it is not reached, is late, or fails; or it is not asked because it just did.
            FeatureUnavailableError: it answers that it does not serve these features, or does not take these entities.
        """
        rows = len(next(iter(entities.values()), ()))
        query = {
            "features": [f"{view}:{feature}" for view, feature in features],
            "entities": {key: list(values) for key, values in entities.items()},
            "full_feature_names": True,
        }
        with self._breaker.calling():
            response = self._post(query)
            if response.status == 200:
                try:
                    answer = _decoder.decode(response.body)
                except msgspec.DecodeError as error:
                    raise self._unavailable("The answer is not that of a feature server.") from error
                found = dict(zip(answer.metadata.feature_names, answer.results, strict=False))
                return self._rows(found, features, rows)
            if response.status in _AWAY:
                raise self._unavailable(f"The feature server answered {response.status}.")
        # A refusal is an answer: it does not open the circuit.
        raise self._refused(response.status, response.body, features)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _post(self, query: Mapping[str, Any]) -> HttpResponse:
        try:
            # Feast's server hangs up after an answer that says 500, and after a while of nothing: a connection that was
            # kept may be closed at this moment. To read twice changes nothing.
            return self._client.post("/get-online-features", query, repeat=True)
        except TimeoutError as error:
            raise self._unavailable(f"The feature server did not answer within {self._timeout:g} s.") from error
        except ResponseError as error:
            raise self._unavailable(f"The feature server's answer {error}.") from error
        except OSError as error:
            raise self._unavailable(f"The feature server is not reached ({type(error).__name__}).") from error

    def _rows(
        self, found: Mapping[str, _ResponseColumn], features: Sequence[tuple[str, str]], rows: int
    ) -> list[dict[tuple[str, str], OnlineValue]]:
        made: list[dict[tuple[str, str], OnlineValue]] = [{} for _ in range(rows)]
        for view, feature in features:
            column = found.get(f"{view}__{feature}")
            if column is None or not len(column.values) == len(column.statuses) == len(column.event_timestamps) == rows:
                raise self._unavailable(
                    f"The feature server's answer does not hold {view}:{feature} for {rows} entities."
                )
            for row, (value, status, moment) in enumerate(
                zip(column.values, column.statuses, column.event_timestamps, strict=True)
            ):
                made[row][view, feature] = self._value(view, feature, value, status, moment)
        return made

    def _value(self, view: str, feature: str, value: Any, status: str, moment: str) -> OnlineValue:
        if status == "NOT_FOUND":
            return OnlineValue(None, None)
        if status not in ("PRESENT", "NULL_VALUE", "OUTSIDE_MAX_AGE"):
            raise self._unavailable(f"The feature server says {status} of {view}:{feature}.")
        event_time = self._moment(moment)
        if event_time is None:
            return OnlineValue(None, None)
        if isinstance(value, (list, dict)):
            raise FeatureUnavailableError(
                f"Feast serves {view}:{feature} as a {type(value).__name__}, which is no feature of ours.",
                where=self._where,
                next_step="Leave it out of the feature view.",
            )
        # Feast writes numbers that are not finite as these texts; such a number is null here.
        return OnlineValue(None if isinstance(value, str) and value in _NOT_FINITE else value, event_time)

    def _moment(self, text: str) -> datetime | None:
        matched = _TIME.match(text)
        if matched is None:
            raise self._unavailable("The feature server's answer holds an instant that cannot be read.")
        whole = datetime.fromisoformat(matched[1]).replace(tzinfo=UTC)
        found = whole.replace(microsecond=int((matched[2] or "").ljust(6, "0")[:6]))
        return found if found.timestamp() > 0 else None

    def _refused(self, status: int, content: bytes, features: Sequence[tuple[str, str]]) -> AntiphonError:
        """An answer that says no. Its text is not passed on, for it repeats what was asked; Feast says 500 to a key of
        another type and to an unknown feature as it does to a store that is away."""
        if status in (401, 403):
            return FeatureUnavailableError(
                f"The feature server refuses our token ({status}).",
                where=self._where,
                next_step="Set [feast] token_variable to a valid token.",
            )
        if any(said in content for said in _WRONG_KEY):
            return InvalidInputError(
                "An entity key is not of the type that Feast's entity has.", where="entity", next_step="Compare them."
            )
        if status >= 500 and _NO_FEATURE not in content:
            return self._unavailable(f"The feature server failed ({status}).")
        views = ", ".join(sorted({view for view, _ in features}))
        return FeatureUnavailableError(
            f"The feature server does not serve these features of {views} ({status}).",
            where=self._where,
            next_step="Compare them with `feast feature-views describe VIEW`.",
        )

    def _unavailable(self, what: str) -> UnavailableError:
        return UnavailableError(
            what, where=self._where, next_step="See that `feast serve` runs and is reached from here."
        )
