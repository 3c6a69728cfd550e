"""The platform over HTTP: questions, events, streams and batch jobs, as any client would use them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx2
import msgspec

from antiphon.core.errors import AntiphonError, UnavailableError
from examples.flight_desk.data import SourceEvent
from examples.flight_desk.demand import QUESTION, Flight, Question
from examples.flight_desk.records import Answered

_AGAIN = {429, 502, 503, 504}
_PATIENCE = 300.0
"""Seconds a busy or restarting platform is waited for."""
_EVENTS_A_CALL = 2_000


class Refused(AntiphonError):
    """The platform answered with an error that trying again does not cure."""


class Desk:
    """Talks to one gateway. Use it as an async context manager."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(130.0, connect=5.0),
            verify=verify,
            transport=transport,
        )

    async def __aenter__(self) -> Desk:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, way: str, application: str, question: Question) -> Answered:
        """One question to one application. An answer that failed is recorded, not raised."""
        flight = question.flight
        body = {
            "model": application,
            "messages": [{"role": "user", "content": QUESTION}],
            "entity": flight.entity,
            "as_of": question.asked.isoformat(),
            "user": f"passenger-{question.id}",
        }
        started = time.perf_counter()
        try:
            reply = await self._call("POST", "/v1/chat/completions", body)
        except Refused as error:
            return _answered(way, "online", question.id, flight, question.asked, error=str(error))
        seconds = time.perf_counter() - started
        provenance = reply["antiphon"]
        text = reply["choices"][0]["message"]["content"]
        guards = provenance.get("guards") or []
        return _answered(
            way,
            "online",
            question.id,
            flight,
            question.asked,
            prediction=provenance["prediction"],
            made=provenance["origin"],
            source=provenance.get("origin_prediction"),
            source_path=provenance.get("origin_path"),
            text=text,
            outlook=_outlook(text),
            delayed=(provenance.get("classes") or {}).get("outlook", {}).get("delayed"),
            guard=guards[-1]["action"] if guards else None,
            tokens=reply["usage"]["completion_tokens"],
            seconds=seconds,
            publication=provenance.get("publication"),
            release=provenance.get("release"),
            role=provenance.get("role"),
        )

    async def tell_outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
        """Send what became of predictions; the status of each."""
        reply = await self._call("POST", "/v1/feedback", {"outcomes": list(outcomes)})
        return [str(one["status"]) for one in reply["outcomes"]]

    async def rollout(self, rollout: str) -> dict[str, Any]:
        """A rollout as it stands."""
        listed = await self._call("GET", "/admin/rollouts")
        return dict(next(one for one in listed["rollouts"] if one["id"] == rollout))

    async def mirrored(self, rollout: str) -> int:
        """How many questions a rollout's candidate has answered in shadow so far."""
        detail = await self._call("GET", f"/admin/rollouts/{rollout}?judgements=1")
        return int(detail["pairs"]["pairs"])

    async def push(self, arrived: Mapping[str, Sequence[SourceEvent]]) -> dict[str, int]:
        """Append events to their streams; the last offset of each stream that received any."""
        ends: dict[str, int] = {}
        for stream, events in arrived.items():
            for first in range(0, len(events), _EVENTS_A_CALL):
                body = {"events": [msgspec.to_builtins(event) for event in events[first : first + _EVENTS_A_CALL]]}
                ends[stream] = (await self._call("POST", f"/admin/events/{stream}", body))["end"]
        return ends

    async def wait_consumed(self, ends: Mapping[str, int], *, patience: float = _PATIENCE) -> None:
        """Return once the features know every event up to these offsets.

        Raises:
            UnavailableError: they do not within ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        pause = 0.005
        while True:
            streams = (await self._call("GET", "/admin/streams"))["streams"]
            consumed = {status["stream"]: status["consumed"] for status in streams}
            behind = {stream: end for stream, end in ends.items() if consumed.get(stream, -1) < end}
            if not behind:
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"The streams are not consumed: {behind} of {consumed}.",
                    where="/admin/streams",
                    next_step="Look at the worker's log in .antiphon/logs.",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    async def refresh(self, as_of: datetime, *, patience: float = _PATIENCE) -> None:
        """Have every view computed as of a moment and published; return once it is.

        Raises:
            UnavailableError: the run failed, or has not ended within ``patience`` seconds.
        """
        order = {"as_of": as_of.isoformat(), "key": f"replay/{as_of.isoformat()}"}
        run = (await self._call("POST", "/admin/features/refresh", order))["id"]
        deadline = time.monotonic() + patience
        while True:
            state = await self._call("GET", f"/admin/runs/{run}")
            if state["status"] == "succeeded":
                return
            if state["status"] in {"failed", "cancelled"} or time.monotonic() > deadline:
                raise UnavailableError(
                    f"The refresh is {state['status']}: {state.get('error') or 'no reason given'}.",
                    where=run,
                    next_step="Look at the worker's log in .antiphon/logs.",
                )
            await asyncio.sleep(0.1)

    async def order_briefing(self, application: str, flights: Sequence[Flight], as_of: datetime, key: str) -> str:
        """Have an application's answers for these flights made in batch and stored; the job's id."""
        rows = [{**flight.entity, "question": QUESTION} for flight in flights]
        order = {
            "application": application,
            "rows": rows,
            "as_of": as_of.isoformat(),
            "precompute": True,
            "key": key,
        }
        return str((await self._call("POST", "/admin/batch", order))["id"])

    async def briefing_state(self, job: str) -> tuple[bool, int, int]:
        """Whether a job has ended, rows done, rows in all.

        Raises:
            UnavailableError: it failed or was cancelled.
        """
        state = await self._call("GET", f"/admin/batch/{job}")
        if state["status"] in {"failed", "cancelled"}:
            raise UnavailableError(
                f"The briefing ended as {state['status']}: {state.get('error') or 'no reason given'}.", where=job
            )
        return state["status"] == "completed", int(state["rows_done"]), int(state["total"] or 0)

    async def briefing_rows(self, way: str, job: str, flights: Sequence[Flight], as_of: datetime) -> list[Answered]:
        """The finished rows of a briefing as answers, one per flight."""
        answers, after = [], -1
        while True:
            page = await self._call("GET", f"/admin/batch/{job}/rows?after={after}&limit=1000")
            for row in page["rows"]:
                answers.append(_briefed(way, flights[row["line"]], as_of, row["payload"]))
            if page["next"] is None:
                return answers
            after = page["next"]

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call, again while the platform is busy or restarting.

        Raises:
            Refused: an error that trying again does not cure.
            UnavailableError: it stayed away.
        """
        deadline = time.monotonic() + _PATIENCE
        pause = 0.1
        while True:
            try:
                reply = await self._client.request(method, path, json=body)
                reason = f"{reply.status_code}: {_message(reply)}"
                if reply.is_success:
                    return dict(reply.json())
                if reply.status_code not in _AGAIN:
                    raise Refused(f"{method} {path}: {reason}", where=str(self._client.base_url))
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{method} {path} failed for {_PATIENCE:.0f} s, last with {reason}.",
                    where=str(self._client.base_url),
                    next_step="Look at .antiphon/logs, then run it again: what was answered is kept.",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


def _message(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]


def _answered(way: str, path: Any, question: str, flight: Flight, asked: datetime, **fields: Any) -> Answered:
    return Answered(
        way=way,
        path=path,
        question=question,
        flight=flight.event_id,
        day=flight.day,
        origin=flight.origin,
        carrier=flight.carrier,
        dest=flight.dest,
        asked=asked,
        **fields,
    )


def _briefed(way: str, flight: Flight, as_of: datetime, row: Mapping[str, Any]) -> Answered:
    error = row.get("answer_error")
    if error:
        return _answered(way, "batch", flight.event_id, flight, as_of, error=str(error))
    text = str(row["answer_text"])
    return _answered(
        way,
        "batch",
        flight.event_id,
        flight,
        as_of,
        prediction=str(row["answer_prediction"]),
        made=_made(row),
        source=row.get("answer_origin_prediction"),
        text=text,
        outlook=_outlook(text),
        delayed=(row.get("answer_classes") or {}).get("outlook", {}).get("delayed"),
        tokens=int(row.get("answer_completion_tokens") or 0),
        publication=row.get("answer_publication"),
    )


def _made(row: Mapping[str, Any]) -> str:
    return str(row["answer_origin"])


def _outlook(text: str) -> str | None:
    try:
        output = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return output.get("outlook") if isinstance(output, dict) else None
