"""The platform over HTTP: questions, events, streams and batch jobs, as any client would use them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import httpx2
import msgspec

from antiphon.core.errors import AntiphonError, UnavailableError
from examples.flight_desk.data import SourceEvent
from examples.flight_desk.demand import QUESTION, Flight, Question
from examples.flight_desk.records import Answered

_AGAIN = {429, 502, 503, 504}
_PATIENCE = 300.0
"""Seconds a busy or restarting platform is waited for."""
_EVENTS_A_CALL, _OUTCOMES_A_CALL = 2_000, 500


class Refused(AntiphonError):
    """The platform answered with an error that trying again does not cure."""


class Platform(msgspec.Struct, frozen=True):
    """Where a running platform listens, an administrator's key, and how its certificate is verified."""

    url: str
    key: str
    verify: ssl.SSLContext | bool = True


class Desk:
    """Talks to one gateway. Use it as an async context manager."""

    def __init__(self, platform: Platform, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._client = httpx2.AsyncClient(
            base_url=platform.url,
            headers={"authorization": f"Bearer {platform.key}"},
            timeout=httpx2.Timeout(130.0, connect=5.0),
            verify=platform.verify,
            transport=transport,
        )

    async def __aenter__(self) -> Desk:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, way: str, application: str, question: Question) -> Answered:
        """One question to one application. An answer that failed is recorded, not raised."""
        body = {
            "model": application,
            "messages": [{"role": "user", "content": QUESTION}],
            "entity": question.flight.entity,
            "as_of": question.asked.isoformat(),
            "user": f"passenger-{question.id}",
        }
        started = time.perf_counter()
        try:
            reply = await self._call("POST", "/v1/chat/completions", body)
        except Refused as error:
            return _answered(way, "online", question, error=str(error))
        seconds, provenance = time.perf_counter() - started, reply["antiphon"]
        guards = provenance.get("guards") or []
        return _answered(
            way,
            "online",
            question,
            reply["choices"][0]["message"]["content"],
            prediction=provenance["prediction"],
            made=provenance["origin"],
            source=provenance.get("origin_prediction"),
            delayed=_delayed(provenance.get("classes")),
            guard=guards[-1]["action"] if guards else None,
            tokens=reply["usage"]["completion_tokens"],
            seconds=seconds,
            release=provenance.get("release"),
        )

    async def tell_outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
        """Send what became of predictions; the status of each."""
        statuses: list[str] = []
        for first in range(0, len(outcomes), _OUTCOMES_A_CALL):
            body = {"outcomes": outcomes[first : first + _OUTCOMES_A_CALL]}
            statuses += [one["status"] for one in (await self._call("POST", "/v1/feedback", body))["outcomes"]]
        return statuses

    async def rollout(self, rollout: str) -> dict[str, Any]:
        """A rollout as it stands, with its pairs in shadow and the judgements of it."""
        return await self._call("GET", f"/admin/rollouts/{rollout}")

    async def rollouts(self, application: str) -> list[dict[str, Any]]:
        """The rollouts of an application, latest first."""
        return list((await self._call("GET", f"/admin/rollouts?application={application}&limit=100"))["rollouts"])

    async def rollout_under_way(self, application: str) -> str | None:
        """The rollout of an application that has not ended."""
        under_way = (one["id"] for one in await self.rollouts(application) if one["ended_at"] is None)
        return next(under_way, None)

    async def live(self, application: str) -> str:
        """The release that answers."""
        found = (await self._call("GET", f"/admin/releases?application={application}"))["releases"]
        return str(next(one["id"] for one in found if one["live"]))

    async def runs(self, limit: int) -> list[dict[str, Any]]:
        """Durable runs, latest first."""
        return list((await self._call("GET", f"/admin/runs?limit={limit}"))["runs"])

    async def is_working(self) -> bool:
        """Whether a run has not ended."""
        return any(one["ended_at"] is None for one in await self.runs(20))

    async def is_training(self) -> bool:
        """Whether a training has not ended."""
        return any(one["ended_at"] is None and one["workflow"] == "train" for one in await self.runs(20))

    async def push(self, arrived: Mapping[str, Sequence[SourceEvent]]) -> None:
        """Append events to their streams; return once the features know them.

        Raises:
            UnavailableError: they do not in time.
        """
        ends: dict[str, int] = {}
        for stream, events in arrived.items():
            for first in range(0, len(events), _EVENTS_A_CALL):
                body = {"events": events[first : first + _EVENTS_A_CALL]}
                ends[stream] = (await self._call("POST", f"/admin/events/{stream}", body))["end"]
        behind = ends
        for pause in _pauses(0.005, 0.1):
            began = time.monotonic()
            streams = (await self._call("GET", "/admin/streams"))["streams"]
            consumed = {status["stream"]: status["consumed"] for status in streams}
            behind = {stream: end for stream, end in ends.items() if consumed.get(stream, -1) < end}
            if not behind:
                return
            # A busy machine is not kept from it by being asked.
            await asyncio.sleep(max(pause, 2 * (time.monotonic() - began)))
        raise UnavailableError(
            f"The streams are not consumed up to {behind}.",
            where="/admin/streams",
            next_step="Look at the worker's log in .antiphon/logs.",
        )

    async def refresh(self, as_of: datetime) -> None:
        """Have every view computed as of a moment and published; return once it is.

        Raises:
            UnavailableError: the run failed, or has not ended in time.
        """
        # What is replayed is now a moment of the past.
        order = {"as_of": as_of.isoformat(), "publish": True, "key": f"replay/{as_of.isoformat()}"}
        run = await self._call("POST", "/admin/features/refresh", order)
        for pause in _pauses(0.1, 0.1):
            run = await self._call("GET", f"/admin/runs/{run['id']}")
            if run["status"] == "succeeded":
                return
            if run["status"] in {"failed", "cancelled"}:
                break
            await asyncio.sleep(pause)
        raise UnavailableError(
            f"The refresh is {run['status']}: {run.get('error') or 'no reason given'}.",
            where=run["id"],
            next_step="Look at the worker's log in .antiphon/logs.",
        )

    async def order_briefing(self, application: str, flights: Sequence[Flight], as_of: datetime, key: str) -> str:
        """Have an application's answers for these flights made in batch and stored; the job's id."""
        rows = [{**flight.entity, "question": QUESTION} for flight in flights]
        order = {"application": application, "rows": rows, "as_of": as_of.isoformat(), "precompute": True, "key": key}
        return str((await self._call("POST", "/admin/batch", order))["id"])

    async def is_briefed(self, job: str) -> bool:
        """Whether a briefing has ended.

        Raises:
            UnavailableError: it failed or was cancelled.
        """
        state = await self._call("GET", f"/admin/batch/{job}")
        if state["status"] in {"failed", "cancelled"}:
            raise UnavailableError(
                f"The briefing ended as {state['status']}: {state.get('error') or 'no reason given'}.", where=job
            )
        return bool(state["status"] == "completed")

    async def briefing_rows(self, way: str, job: str, flights: Sequence[Flight], as_of: datetime) -> list[Answered]:
        """The finished rows of a briefing as answers, one per flight."""
        answers: list[Answered] = []
        after: int | None = -1
        while after is not None:
            page = await self._call("GET", f"/admin/batch/{job}/rows?after={after}&limit=1000")
            answers += [_briefed(way, flights[row["line"]], as_of, row["payload"]) for row in page["rows"]]
            after = page["next"]
        return answers

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call, again while the platform is busy or restarting.

        Raises:
            Refused: an error that trying again does not cure.
            UnavailableError: it stayed away.
        """
        content = None if body is None else msgspec.json.encode(body)
        reason = ""
        for pause in _pauses(0.1, 2.0):
            try:
                reply = await self._client.request(
                    method, path, content=content, headers={"content-type": "application/json"}
                )
                if reply.is_success:
                    return dict(reply.json())
                reason = f"{reply.status_code}: {_message(reply)}"
                if reply.status_code not in _AGAIN:
                    raise Refused(f"{method} {path}: {reason}", where=str(self._client.base_url))
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            await asyncio.sleep(pause)
        raise UnavailableError(
            f"{method} {path} failed for {_PATIENCE:.0f} s, last with {reason}.",
            where=str(self._client.base_url),
            next_step="Look at .antiphon/logs, then run it again: what was answered is kept.",
        )


def _pauses(first: float, longest: float) -> Iterator[float]:
    """Pauses between tries in seconds, each longer up to the longest, until patience is over."""
    deadline, pause = time.monotonic() + _PATIENCE, first
    while time.monotonic() < deadline:
        yield pause
        pause = min(pause * 1.5, longest)


def _message(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]


def _answered(way: str, path: Literal["online", "batch"], question: Question, text: str = "", **told: Any) -> Answered:
    flight = question.flight
    return Answered(
        way, path, question.id, flight.event_id, flight.day, flight.origin, flight.carrier, flight.dest, question.asked,
        text=text, **told,
    )  # fmt: skip


def _briefed(way: str, flight: Flight, as_of: datetime, row: Mapping[str, Any]) -> Answered:
    question = Question(flight.event_id, flight, as_of)
    if row.get("answer_error"):
        return _answered(way, "batch", question, error=str(row["answer_error"]))
    return _answered(
        way,
        "batch",
        question,
        str(row["answer_text"]),
        prediction=str(row["answer_prediction"]),
        made=str(row["answer_origin"]),
        source=row.get("answer_origin_prediction"),
        delayed=_delayed(row.get("answer_classes")),
        tokens=int(row.get("answer_completion_tokens") or 0),
    )


def _delayed(classes: Mapping[str, Mapping[str, float]] | None) -> float | None:
    """The probability of the outlook ``delayed``, where the engine measured it."""
    return ((classes or {}).get("outlook") or {}).get("delayed")
