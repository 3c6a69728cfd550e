"""Engines that are stopped while nobody needs them: real processes under a real supervisor, and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.base_model import model_path

from antiphon.core.clock import ManualClock
from antiphon.core.errors import EngineError, InvalidInputError, UnavailableError
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.core.supervision import STEP_LOOP
from antiphon.definitions.cron import CronTime
from antiphon.definitions.windows import WindowSpec
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, ServedModel, TokenizationRequest
from antiphon.engine.routing.merged import loads_by_host
from antiphon.operations.children import ChildSpec, SocketAnswers
from antiphon.operations.processes import statuses
from antiphon.operations.replacement import replace
from antiphon.operations.supervisor import Backoff, ProcessEvent, Supervisor
from antiphon.orchestration import governor
from antiphon.orchestration.engine_scaling import EngineHours, ScalingPolicy
from antiphon.orchestration.governor import GovernorState
from antiphon.services.engines.scaling import EngineScaler, scaling_policy

__all__ = ["model_path"]
IDLE = 0.3


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # Sockets' paths are short.
        yield Path(made)


class ScaledEngine:
    """An engine process of its own under a supervisor and a scaler, with a client that knows its public socket."""

    def __init__(self, folder: Path, policy: ScalingPolicy, *options: str, most: int = 1) -> None:
        self.paths = ProjectPaths(folder, folder)
        self.told: list[ProcessEvent] = []
        self.broken = folder / "broken"
        self.stop = asyncio.Event()
        self.supervising: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        specs = [self._spec(name, options) for name in ["engine", "engine-2", "engine-3"][:most]]
        self.clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC))
        self.scaler = EngineScaler(policy, self.paths, specs, self.clock, tell=self.told.append, look=0.05)
        self.supervisor = Supervisor(
            specs, run=self.paths.run, logs=self.paths.logs, drain_order=[], tell=self.scaler.saw,
            backoff=Backoff(first=0.05, last=0.05), poll=0.01, stopped=self.scaler.at_first,
        )  # fmt: skip
        self.scaler.supervisor = self.supervisor
        self.specs = specs
        self.client = EngineClient(self.paths.engine_socket_of("engine"), activator=True)

    def _spec(self, name: str, options: tuple[str, ...]) -> ChildSpec:
        own = self.paths.engine_socket_of(f"{name}.own" if name == "engine" else name)
        # With the file `broken` beside it, the engine cannot be started.
        code = f"import os, sys\nif os.path.exists({str(self.broken)!r}): sys.exit('no memory')\n"
        code += "from antiphon.engine.__main__ import main\nsys.exit(main())"
        options = options or ("--simulated", "--model", "words")
        return ChildSpec(
            name,
            (
                *(sys.executable, "-c", code, "--socket", str(own), "--log-level", "warning", *options),
                *("--models-file", str(self.paths.run / f"{name}.models")),
            ),
            SocketAnswers(own),
            sockets=(own,),
            silence=60.0,
            loops=(STEP_LOOP,),
        )

    async def until(self, event: str, times: int = 1) -> None:
        async with asyncio.timeout(60):
            while sum(one.event == event for one in self.told) < times:
                assert not self.supervising.done() or self.stop.is_set(), "the supervisor ended"
                await asyncio.sleep(0.01)

    def count(self, event: str) -> int:
        return sum(one.event == event for one in self.told)

    async def ask(self, name: str = "r", **changes: object) -> tuple[GenerationResult, list[Delta]]:
        fields = {"id": name, "model": "words", "prompt": f"About {name}.\n", "max_tokens": 4}
        events = [event async for event in self.client.generate(GenerationRequest(**{**fields, **changes}))]  # type: ignore[arg-type]
        result = events[-1]
        assert isinstance(result, GenerationResult)
        return result, [event for event in events if isinstance(event, Delta) and event.starting is not None]


@contextlib.asynccontextmanager
async def scaled(
    folder: Path, *options: str, policy: ScalingPolicy | None = None, most: int = 1
) -> AsyncIterator[ScaledEngine]:
    world = ScaledEngine(folder, policy or ScalingPolicy(0, most, IDLE, 4), *options, most=most)
    deciding = asyncio.create_task(world.scaler.run_until(world.stop))
    world.supervising = asyncio.create_task(world.supervisor.supervise(world.stop))
    try:
        yield world
    finally:
        world.stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(world.supervising, deciding, return_exceptions=True)
        await world.client.close()
        await world.scaler.close()


async def test_it_is_stopped_told_started_by_a_request_and_by_hours(folder: Path) -> None:
    hours = EngineHours(WindowSpec("office", CronTime("0 8 * * *"), 3_600), 1)
    async with scaled(folder, policy=ScalingPolicy(0, 1, IDLE, 4, (hours,))) as world:
        await world.until("stopped")
        (found,) = statuses(world.paths.run)
        assert (found.state, found.alive, found.resident_bytes) == ("stopped", False, None)
        assert found.detail.startswith("nobody needs it, starts in about ")
        described = await world.client.describe()
        assert described.stopped is not None
        assert not described.stopped.starting
        assert [model.name for model in described.models] == ["words"]
        assert (described.load.running_online, described.load.waiting_online) == (0, 0)
        # The governor of training reads it as idle: what it had paused goes on.
        (load,) = loads_by_host(described, "here").values()
        paused = GovernorState(0.0, paused_since=0.0, generated=load.generated_tokens_online)
        assert not governor.decide(load, paused, 5.0, quiet=1.0).paused
        await world.client.serve(())  # What it has already.
        assert [one async for one in replace(world.specs, world.paths.run, _listed)] == []
        spare = asyncio.create_task(world.ask("spare", spare=True, priority="batch"))
        await asyncio.sleep(3 * 0.05)
        assert world.count("starting") == 1, "to ask what it serves, or for spare work, started it"

        watching = asyncio.create_task(world.client.describe_when_online(20.0))
        result, told = await world.ask()
        assert result.usage.start_seconds > 0.1
        assert (told[0].starting or 0.0) >= 1.0
        assert told[-1].starting == 0.0
        assert (await watching).load.waiting_online == 1
        assert (await spare)[0].text
        assert (await world.client.describe()).stopped is None
        assert (await world.ask("s"))[0].usage.start_seconds == 0.0
        await world.until("stopped", 2)
        world.clock.set(datetime(2026, 6, 1, 7, 59, 59, 900_000, tzinfo=UTC))
        await world.until("ready", 3)
        await asyncio.sleep(2 * IDLE)
        assert world.count("stopped") == 2, "nobody needs it, but it is within hours"
        world.clock.set(datetime(2026, 6, 1, 9, 0, tzinfo=UTC))
        await world.until("stopped", 3)
    assert not world.paths.engine_socket_of("engine").is_symlink()


async def test_no_request_is_lost_as_it_goes_down_and_comes_up(folder: Path) -> None:
    """Clients that ask at the moment at which it is told to end, and at moments around it: every one is answered."""
    async with scaled(folder, policy=ScalingPolicy(0, 1, 0.1, 4)) as world:
        clients = [EngineClient(world.paths.engine_socket_of("engine"), activator=True) for _ in range(3)]

        async def asks(client: EngineClient, after: float) -> str:
            await asyncio.sleep(after)
            async for event in client.generate(GenerationRequest("r", "words", "x", 2)):
                if isinstance(event, GenerationResult):
                    return event.text
            raise AssertionError

        async def at_once(*after: float) -> None:
            texts = await asyncio.gather(
                *(asks(client, each) for each, client in itertools.product(after, clients))
            )  # fmt: skip
            assert len(set(texts)) == 1

        await world.until("ready")
        for ends in range(1, 3):
            await at_once(0.0)
            await world.until("draining", ends)
            await at_once(0.0, 0.001, 0.003, 0.01)
        # Around the end of the idle time and the looks: the link is moved, and perhaps back.
        for number in range(4):
            await at_once(0.09 + 0.02 * number)
        for client in clients:
            await client.close()
    assert world.count("died") == 0


async def test_a_start_that_fails_is_told_at_once_and_one_that_succeeds_answers(folder: Path) -> None:
    async with scaled(folder) as world:
        await world.until("stopped")
        world.broken.touch()
        with pytest.raises(UnavailableError, match=r"could not be started") as failed:
            await world.ask()
        assert failed.value.retry_after
        assert "no memory" not in str(failed.value), "what a log says is nothing for callers"
        assert any("no memory" in one.detail for one in world.told if one.event == "died")
        with pytest.raises(UnavailableError):
            await world.client.describe()
        # Nobody needs it any more: it is not tried for ever, and the next request has it tried again.
        await world.until("stopped", 2)
        assert (await world.client.describe()).stopped is not None
        world.broken.unlink()
        assert (await world.client.tokenize(TokenizationRequest("t", "words", "a b"))).tokens


async def test_a_crash_restarts_it_and_a_new_model_has_it_started(folder: Path) -> None:
    async with scaled(folder, policy=ScalingPolicy(0, 1, 1.0, 4)) as world:
        await world.until("ready")
        pid = world.told[-1].pid
        await world.until("stopped")
        path = folder / "new.gguf"
        described = await world.client.serve([ServedModel("new", str(path), "ab" * 32)])
        assert "new" in {model.name for model in described.models}
        again = next(one.pid for one in reversed(world.told) if one.event == "ready")
        assert again != pid
        busy = asyncio.create_task(world.ask("long", max_tokens=10_000, ignore_end=True))
        await asyncio.sleep(0.05)
        assert again is not None
        os.kill(again, signal.SIGKILL)
        await asyncio.gather(busy, return_exceptions=True)
        async with asyncio.timeout(30):
            while True:  # A crash is told at once, not waited for.
                with contextlib.suppress(UnavailableError, EngineError):
                    assert (await world.ask())[0].text
                    break
                await asyncio.sleep(0.02)


async def test_several_follow_the_load_and_stop_one_after_another(folder: Path) -> None:
    slow = ("--simulated", "--model", "words", "--simulated-decode-milliseconds", "20", "--slots", "2")
    async with scaled(folder, *slow, policy=ScalingPolicy(0, 2, IDLE, 2), most=2) as world:
        await world.until("ready")
        assert [one.process for one in world.told if one.event == "stopped"] == ["engine-2"]
        # On a busy machine the first start takes long, and so would the wait until another one is worth it.
        for _ in range(5):
            world.scaler.starts.add(0.2)
        load = [asyncio.create_task(world.ask(str(number), max_tokens=10_000, ignore_end=True)) for number in range(6)]
        await world.until("ready", 2)
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        async with asyncio.timeout(60):
            while [one.process for one in world.told if one.event == "stopped"] != ["engine-2", "engine-2", "engine"]:
                await asyncio.sleep(0.01)


@pytest.mark.model
async def test_llama_cpp_gives_its_memory_back_and_answers_the_same(folder: Path, model_path: Path) -> None:
    options = ("--model", "smollm2-135m", "--slots", "2", "--context", "256", "--threads", "1")
    async with scaled(folder, *options) as world:
        await world.until("ready")
        fields: dict[str, Any] = {"model": "smollm2-135m", "prompt": "Three rivers are", "max_tokens": 8}
        before = (await world.ask(**fields))[0]
        assert (statuses(world.paths.run)[0].resident_bytes or 0) > 100e6
        await world.until("stopped")
        assert statuses(world.paths.run)[0].resident_bytes is None
        after = (await world.ask(**fields))[0]
        assert (after.text, after.fingerprint) == (before.text, before.fingerprint)
        assert after.usage.start_seconds > 0


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"scaling": {"least": 1}}, "need `idle`"),
        ({"scaling": {"idle": "5m", "least": 2}}, "More engines are to be up"),
        ({"scaling": {"idle": "5m"}, "engine": {"kind": "remote"}}, "not ours to stop"),
        ({"scaling": {"idle": "5m"}, "engine": {"join": True, "listen": "0.0.0.0:8790"}}, "other hosts"),
        ({"scaling": {"idle": "5m"}, "processes": {"engines": 0}}, "no engine on this machine"),
        ({"scaling": {"idle": "5m", "hours": [{"begins": "0 8 * *", "lasts": "1h"}]}}, "no cron line"),
        ({"scaling": {"idle": "5m", "hours": [{"begins": "0 8 * * *", "lasts": "1h", "zone": "X"}]}}, "no zone"),
    ],
)
def test_bounds_that_cannot_be_kept_are_named(sections: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match) as refused:
        scaling_policy(msgspec.convert(sections, Settings))
    assert refused.value.where
    assert refused.value.where.startswith("antiphon.toml, [scaling]")


def test_without_the_section_nothing_is_stopped() -> None:
    assert scaling_policy(Settings()) is None


async def _listed(record: object) -> bool:
    return True
