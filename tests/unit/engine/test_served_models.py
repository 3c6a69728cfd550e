"""Models that come and go at run time, over simulated runtimes whose loads and calls wait until the test lets them."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from antiphon.core.errors import (
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    SetupError,
    UnavailableError,
    UnsupportedParameterError,
)
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, ServedModel
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.declared_models import DeclaredModels, checked
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout, Logits

LAYOUT = Layout(chunk_tokens=8, slots=2, context_tokens=1024)
NEW = ServedModel("new", "/new", "n1")


class Watched(SimulatedRuntime):
    """Knows who closed it; tokenizing waits while the gate is closed, and decoding while ``decodes`` is."""

    def __init__(self, name: str) -> None:
        super().__init__(name, LAYOUT, words=30, weights=name)
        self.closed_by: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.tokenizing = threading.Event()
        self.decodes = threading.Event()
        self.decodes.set()

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        assert self.decodes.wait(10)
        return super().step(slots, positions, tokens)

    def tokenize(self, text: str) -> list[int]:
        self.tokenizing.set()
        assert self.gate.wait(10)
        assert not self.closed_by, "the vocabulary was read after it was freed"
        return super().tokenize(text)

    def close(self) -> None:
        self.closed_by.append(threading.current_thread().name)
        super().close()


class Loads:
    """Loads runtimes when the test lets it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.runtimes: list[Watched] = []
        self.kept: list[tuple[ServedModel, ...]] = []

    def __call__(self, model: ServedModel) -> Watched:
        self.entered.set()
        assert self.gate.wait(10)
        if model.path == "/broken":
            raise OSError("cannot map it")
        self.runtimes.append(Watched(model.name))
        return self.runtimes[-1]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[LocalEngine, Loads]]:
    loads = Loads()
    engine = await LocalEngine(
        {"words": Watched("words")}, load=loads, save_declaration=lambda models: loads.kept.append(tuple(models))
    ).start()
    try:
        async with asyncio.timeout(20):
            yield engine, loads
    finally:
        loads.gate.set()
        await engine.close()
        assert all(len(runtime.closed_by) == 1 for runtime in loads.runtimes)


def asking(model: str, tokens: int = 12) -> GenerationRequest:
    return GenerationRequest("r", model, "About rivers.\n", tokens)


async def collect(engine: LocalEngine, request: GenerationRequest) -> GenerationResult:
    last = None
    async for event in engine.generate(request):
        last = event
    assert isinstance(last, GenerationResult)
    return last


async def until_closed(runtime: Watched) -> None:
    async with asyncio.timeout(5):
        while not runtime.closed_by:
            await asyncio.sleep(0)


async def test_a_load_holds_nobody_up_and_a_caller_who_leaves_does_not_undo_it() -> None:
    async with running() as (engine, loads):
        alone = await collect(engine, asking("words"))
        loads.gate.clear()
        declaring = asyncio.create_task(engine.serve([NEW]))
        await asyncio.to_thread(loads.entered.wait, 10)
        assert (await collect(engine, asking("words"))).text == alone.text
        with pytest.raises(NotFoundError):
            await collect(engine, asking("new"))
        declaring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await declaring
        loads.gate.set()
        await engine.serve([NEW])
        assert len(loads.runtimes) == 1
        assert (await collect(engine, asking("new"))).text != alone.text


async def test_a_model_is_freed_by_the_loop_after_its_last_request() -> None:
    async with running() as (engine, loads):
        await engine.serve([NEW])
        (runtime,) = loads.runtimes
        runtime.decodes.clear()  # The first token comes from the prompt's own call.
        events = engine.generate(asking("new", 200))
        assert isinstance(await anext(events), Delta)
        before = engine.load()
        await engine.serve([])
        assert not runtime.closed_by
        runtime.decodes.set()
        rest = [event async for event in events]
        assert isinstance(rest[-1], GenerationResult)
        assert rest[-1].reason in ("stop", "length")
        await until_closed(runtime)
        assert runtime.closed_by == ["antiphon-step-loop"]
        after = engine.load()
        assert after.slots == before.slots - LAYOUT.slots
        assert after.generated_tokens_online >= before.generated_tokens_online > 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_request_being_prepared_keeps_its_model(leaves: bool) -> None:
    async with running() as (engine, loads):
        await engine.serve([NEW])
        (runtime,) = loads.runtimes
        runtime.gate.clear()
        asked = asyncio.create_task(collect(engine, asking("new")))
        await asyncio.to_thread(runtime.tokenizing.wait, 10)
        await engine.serve([])
        if leaves:
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
        await collect(engine, asking("words"))
        assert not runtime.closed_by
        runtime.gate.set()
        if not leaves:
            assert (await asked).text
        await until_closed(runtime)


async def test_a_name_may_come_back_while_its_old_model_still_answers() -> None:
    async with running() as (engine, loads):
        await engine.serve([NEW])
        alone = await collect(engine, asking("new"))
        events = engine.generate(asking("new", 200))
        assert isinstance(await anext(events), Delta)
        await engine.serve([])
        await engine.serve([ServedModel("new", "/other", "n2")])
        assert (await collect(engine, asking("new"))).text == alone.text
        assert isinstance([event async for event in events][-1], GenerationResult)
        await until_closed(loads.runtimes[0])
        assert not loads.runtimes[1].closed_by


async def test_the_declaration_is_kept_before_it_is_carried_out() -> None:
    async with running() as (engine, loads):
        with pytest.raises(SetupError, match="cannot map it"):
            await engine.serve([ServedModel("broken", "/broken", "b"), NEW])
        assert loads.kept == [(ServedModel("broken", "/broken", "b"), NEW)]
        assert [model.name for model in engine.models()] == ["words", "new"]


async def test_an_engine_without_a_loader_says_so_and_a_closed_one_too() -> None:
    engine = await LocalEngine({"words": Watched("words")}).start()
    with pytest.raises(UnsupportedParameterError, match="new"):
        await engine.serve([NEW])
    await engine.close()
    with pytest.raises(UnavailableError):
        await engine.serve([])


async def test_closing_waits_for_a_load_and_frees_it() -> None:
    async with running() as (engine, loads):
        loads.gate.clear()
        declaring = asyncio.create_task(engine.serve([NEW, ServedModel("second", "/second", "s")]))
        await asyncio.to_thread(loads.entered.wait, 10)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        loads.gate.set()
        await closing
        with pytest.raises(UnavailableError):
            await declaring
        assert [len(runtime.closed_by) for runtime in loads.runtimes] == [1]


def test_a_declaration_survives_and_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "engine.models"
    kept = DeclaredModels(file)
    assert kept.read() == ()
    kept.write([NEW])
    assert kept.read() == (NEW,)
    assert [path.name for path in file.parent.iterdir()] == ["engine.models"]
    before = file.stat().st_mtime_ns, file.stat().st_ino
    kept.write([NEW])
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    file.write_bytes(b'[["new", "/new"')
    assert kept.read() == ()
    with pytest.raises(SetupError, match="cannot be kept"):
        DeclaredModels(file / "below").write([NEW])


def test_a_model_that_kills_the_engine_twice_is_loaded_no_more(tmp_path: Path) -> None:
    file = tmp_path / "engine.models"
    begun: list[object] = []

    def load(model: ServedModel, *, dies: bool = False) -> None:
        loading = DeclaredModels(file).loading(model)
        loading.__enter__()
        begun.append(loading)  # A generator that is collected ends in good order.
        if not dies:
            loading.__exit__(None, None, None)

    fine = ServedModel("fine", "/fine", "f1")
    load(NEW, dies=True)
    load(fine)
    load(NEW)  # The first death was not its fault, and is forgotten.
    load(NEW, dies=True)
    load(NEW, dies=True)
    load(fine)
    with pytest.raises(SetupError, match=r"died 2 times.*engine\.models\.deaths"):
        load(NEW)
    file.with_name("engine.models.deaths").unlink()
    load(NEW)
    with pytest.raises(CorruptionError), DeclaredModels(file).loading(NEW):
        raise CorruptionError("A failure that the process survives counts for nothing.")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_checked_against_what_was_declared(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(SetupError, match="neither"):
        checked(ServedModel("m", str(file), "00"))
    file.write_bytes(b"GGUF and more")
    with pytest.raises(CorruptionError, match=r"instead of 00.*antiphon models rebuild m"):
        checked(ServedModel("m", str(file), "00"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert checked(ServedModel("m", str(file), digest)).path == file
    with pytest.raises(InvalidInputError, match="not absolute"):
        checked(ServedModel("m", "model.gguf", digest))
