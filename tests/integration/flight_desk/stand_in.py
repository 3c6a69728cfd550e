"""A platform small enough to be read: it answers from the truth, keeps answers by the four rules, and tells its tokens.

Stands in for the gateway where the replay and its analysis are tested by themselves. It speaks the same HTTP.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any

from examples.flight_desk.statements import AIRLINES
from examples.flight_desk.truth import Truth
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NAMES = {code: name.title() for name, code in AIRLINES.items()}


class StandIn:
    """``lie_every``: every so many generated texts state a delay that is 20 minutes too long."""

    def __init__(self, truth: Truth, *, lie_every: int = 0, busy_first: int = 0) -> None:
        self._truth = truth
        self._lie_every = lie_every
        self._busy = busy_first
        self.events: dict[str, dict[str, Any]] = {}
        self.latest: datetime | None = None
        self._made: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._stored: dict[tuple[str, ...], dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        self._looked = 0
        self.refreshed: list[datetime] = []
        self.generated = 0
        self.predictions = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/admin/events/{stream}", self._events, methods=["POST"]),
                Route("/admin/streams", self._streams),
                Route("/admin/features/refresh", self._refresh, methods=["POST"]),
                Route("/admin/runs/{run}", self._run),
                Route("/admin/batch", self._order, methods=["POST"]),
                Route("/admin/batch/{job}", self._job),
                Route("/admin/batch/{job}/rows", self._rows),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        if self._busy:
            self._busy -= 1
            return JSONResponse({"error": {"message": "busy"}}, status_code=429)
        body = await request.json()
        if body["entity"]["dest"] == "XXX":
            return JSONResponse({"error": {"message": "no such route"}}, status_code=400)
        answer = self._answer(body["model"], body["entity"], datetime.fromisoformat(body["as_of"]), "online")
        return JSONResponse(
            {
                "choices": [{"message": {"content": answer["text"]}}],
                "usage": {"completion_tokens": answer["tokens"]},
                "antiphon": {
                    "prediction": answer["prediction"],
                    "origin": answer["made"],
                    "origin_prediction": answer["source"],
                    "origin_path": answer["source_path"],
                    "classes": {"outlook": {"delayed": answer["delayed"], "on_time": 1 - answer["delayed"]}},
                    "guards": [{"guard": "figures", "action": "pass", "reason": ""}],
                    "publication": 1,
                },
            }
        )

    def _answer(self, application: str, entity: dict[str, str], at: datetime, path: str) -> dict[str, Any]:
        origin, carrier, dest = entity["origin"], entity["carrier"], entity["dest"]
        figures = tuple(
            None if value is None else math.floor(value / 5 + 0.5) * 5
            for value in (
                self._truth.delay(origin, at),
                self._truth.wind(origin, at),
                self._truth.carrier(carrier, at),
                self._truth.route(origin, dest, at),
            )
        )
        self.predictions += 1
        name = f"pred_{self.predictions}"
        subject = (application, origin, carrier, dest)
        stored = self._stored.get(subject)
        if path == "online" and stored is not None and self._may_serve(application, stored, figures, at):
            return {
                **stored["answer"], "prediction": name, "made": "stored", "tokens": 0,
                "source": stored["answer"]["prediction"], "source_path": stored["path"],
            }  # fmt: skip
        key = (origin, carrier, dest, figures)
        same = self._made.get(key)
        if same is not None:
            answer = {
                **same, "prediction": name, "made": "identical-prompt", "tokens": 0,
                "source": same["prediction"], "source_path": "online",
            }  # fmt: skip
        else:
            answer = self._generate(name, entity, figures)
            self._made[key] = answer
        self._stored[subject] = {"answer": answer, "as_of": at, "figures": figures, "path": path}
        return answer

    def _may_serve(self, application: str, stored: dict[str, Any], figures: tuple[Any, ...], at: datetime) -> bool:
        if stored["as_of"] > at or application == "desk-online":
            return False
        if application == "desk-briefing":
            return True
        if application == "desk-age":
            return bool(at - stored["as_of"] <= timedelta(minutes=30))
        return bool(stored["figures"] == figures)

    def _generate(self, name: str, entity: dict[str, str], figures: tuple[Any, ...]) -> dict[str, Any]:
        self.generated += 1
        delay, wind, carrier, route = figures
        if self._lie_every and self.generated % self._lie_every == 0 and delay is not None:
            delay += 20
        notice = (
            f"{NAMES[entity['carrier']]} is late {carrier}% of the time, the route to {entity['dest']} {route}%."
            f" With wind at {wind} mph, departures at {entity['origin']} run {delay} minutes late."
        )
        delayed = min(0.9, (delay or 0) / 60)
        text = json.dumps({"outlook": "delayed" if delayed > 0.5 else "on_time", "notice": notice})
        return {
            "prediction": name, "made": "generated", "source": None, "source_path": None, "text": text,
            "tokens": 50, "delayed": delayed,
        }  # fmt: skip

    async def _events(self, request: Request) -> Response:
        stream = self.events.setdefault(request.path_params["stream"], {})
        for event in (await request.json())["events"]:
            stream.setdefault(event["event_id"], event)
            known = datetime.fromisoformat(event["available_at"])
            self.latest = known if self.latest is None else max(self.latest, known)
        return JSONResponse({"stream": request.path_params["stream"], "end": len(stream)})

    async def _streams(self, _: Request) -> Response:
        # Every second look finds the consumer one event behind, so that waiting is exercised.
        self._looked += 1
        behind = self._looked % 2
        return JSONResponse(
            {
                "streams": [
                    {"stream": name, "consumed": len(events) - behind, "end": len(events), "lag": behind}
                    for name, events in self.events.items()
                ]
            }
        )

    async def _refresh(self, request: Request) -> Response:
        self.refreshed.append(datetime.fromisoformat((await request.json())["as_of"]))
        return JSONResponse({"id": "run_1"})

    async def _run(self, _: Request) -> Response:
        return JSONResponse({"id": "run_1", "status": "succeeded"})

    async def _order(self, request: Request) -> Response:
        order = await request.json()
        job = self._jobs.setdefault(order["key"], {"order": order, "rows": None, "looked": 0})
        return JSONResponse(self._line(order["key"], job), status_code=201)

    async def _job(self, request: Request) -> Response:
        name = request.path_params["job"].replace("|", "/")
        job = self._jobs[name]
        job["looked"] += 1
        # The briefing takes a while: the online questions of the first ticks go on beside it.
        if job["looked"] == 3:
            order = job["order"]
            at = datetime.fromisoformat(order["as_of"])
            rows = [(row, self._answer(order["application"], row, at, "batch")) for row in order["rows"]]
            job["rows"] = [
                {
                    "line": line,
                    "failed": False,
                    "payload": {
                        **row, "answer_prediction": answer["prediction"], "answer_text": answer["text"],
                        "answer_error": None,
                        "answer_origin": answer["made"], "answer_completion_tokens": answer["tokens"],
                        "answer_origin_prediction": answer["source"],
                        "answer_classes": {"outlook": {"delayed": answer["delayed"]}},
                    },
                }
                for line, (row, answer) in enumerate(rows)
            ]  # fmt: skip
        return JSONResponse(self._line(name, job))

    async def _rows(self, request: Request) -> Response:
        return JSONResponse({"rows": self._jobs[request.path_params["job"].replace("|", "/")]["rows"], "next": None})

    @staticmethod
    def _line(name: str, job: dict[str, Any]) -> dict[str, Any]:
        done = len(job["rows"]) if job["rows"] is not None else 0
        return {
            "id": name.replace("/", "|"), "status": "completed" if job["rows"] is not None else "running",
            "rows_done": done, "total": len(job["order"]["rows"]),
        }  # fmt: skip
