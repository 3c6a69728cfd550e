"""Measures what the probes of an experiment name: over HTTP, by a program, and of the project by functions of ours."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import UnavailableError
from antiphon.core.outgoing import check_url, connector
from antiphon.core.tls import ClientTls
from antiphon.operations.chaos.experiment import HttpProvider, ProbeActivity, ProcessProvider, PythonProvider
from antiphon.operations.chaos.measures import (
    DegradedShareMeasure,
    ErrorShareMeasure,
    LatencyMeasure,
    Measure,
    QuestionMeasure,
    ReadyMeasure,
    UnexplainedShareMeasure,
)
from antiphon.operations.chaos.question_load import QuestionLoad

MOST_BYTES = 1_000_000
"""Bytes of a body or an output that are read."""

_READY_SECONDS = 2.0


class Probes:
    """Measures over one project. Close it when done.

    Args:
        url, tls: of the gateway; a probe's URL that begins with ``/`` is below it.
        load: the questions; ``None``: none are asked.
        measured: measures of the catalog and the process records; it may block.
    """

    def __init__(
        self, root: Path, url: str, tls: ClientTls | None, load: QuestionLoad | None, measured: Callable[[Measure], Any]
    ) -> None:
        self._root, self._url, self._tls, self._load, self._measured = root, url, tls, load, measured

    async def measure(self, probe: ProbeActivity) -> Any:
        """The value of a probe.

        Raises:
            UnavailableError: there is none; whatever else a request, a program or a store that is away raises.
        """
        match probe.provider:
            case HttpProvider() as provider:
                return await self._http(provider)
            case ProcessProvider() as provider:
                return await self._program(provider)
            case PythonProvider() as provider:
                return await self._own(msgspec.convert({"func": provider.func, **provider.arguments}, Measure))

    async def _own(self, measure: Measure) -> Any:
        if isinstance(measure, ReadyMeasure):
            found = await self._http(HttpProvider("/readyz", timeout=_READY_SECONDS))
            return found["status"]
        if isinstance(measure, QuestionMeasure):
            return self._of_questions(measure)
        return await asyncio.to_thread(self._measured, measure)

    def _of_questions(self, measure: QuestionMeasure) -> float:
        found = None
        if self._load is not None:
            window = parse_duration(measure.window).total_seconds()
            match measure:
                case ErrorShareMeasure():
                    found = self._load.share(("refused", "failed", "unexplained"), window)
                case UnexplainedShareMeasure():
                    found = self._load.share(("unexplained",), window)
                case DegradedShareMeasure():
                    found = self._load.share(("degraded",), window)
                case LatencyMeasure(percentile):
                    found = self._load.latency(percentile, window)
        if found is None:
            raise UnavailableError("No question has ended yet.", where="questions")
        return round(found, 4)

    async def _http(self, provider: HttpProvider) -> Mapping[str, Any]:
        own = provider.url.startswith("/")
        url = check_url(f"{self._url}{provider.url}" if own else provider.url, where="probe")
        verify = self._tls.context() if own and self._tls is not None else True
        limit = aiohttp.ClientTimeout(total=provider.timeout)
        async with (
            aiohttp.ClientSession(connector=connector("probe", verify), timeout=limit) as session,
            session.request(
                provider.method, url, headers=provider.headers, json=provider.arguments, allow_redirects=False
            ) as response,
        ):
            body = await response.content.read(MOST_BYTES)
            text = body.decode(errors="replace")
            return {"status": response.status, "headers": dict(response.headers), "body": text}

    async def _program(self, provider: ProcessProvider) -> Mapping[str, Any]:
        process = await asyncio.create_subprocess_exec(
            os.path.expanduser(provider.path), *_words(provider.arguments), cwd=self._root, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(provider.timeout):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return {
            "status": process.returncode,
            "stdout": out[:MOST_BYTES].decode(errors="replace"),
            "stderr": err[:MOST_BYTES].decode(errors="replace"),
        }


def _words(arguments: str | list[str] | dict[str, Any]) -> list[str]:
    """Arguments as the format writes them: a line, a list, or names with their values."""
    if isinstance(arguments, str):
        return shlex.split(arguments)
    if isinstance(arguments, dict):
        return [word for name, value in arguments.items() for word in (name, str(value)) if word != "None"]
    return [str(one) for one in arguments]
