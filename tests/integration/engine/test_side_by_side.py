"""Live and canary in one engine: two real models, one of them loaded, busy and unloaded while the other answers."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.harness.base_model import LAYERS, write_first_layers
from tests.integration.engine.test_process import answering, spawn

from antiphon.core.disk import file_sha256
from antiphon.core.errors import CorruptionError, NotFoundError, SetupError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, ServedModel
from antiphon.engine.api.port import Engine
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.declared_models import checked
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

LAYOUT = Layout(slots=4, context_tokens=512)
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"

Told = tuple[str, tuple[int, ...], str, tuple[object, ...]]


@pytest.fixture(scope="module")
def canary(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """The live model without its last layer."""
    path = tmp_path_factory.mktemp("models") / "canary.gguf"
    write_first_layers(model_path, path, LAYERS - 1)
    return ServedModel("canary", str(path), file_sha256(path))


def load(model: ServedModel) -> LlamaCpp:
    return LlamaCpp(model.name, checked(model), LAYOUT, threads=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(few_layers: Weights) -> AsyncIterator[LocalEngine]:
    runtime = LlamaCpp("live", few_layers, LAYOUT, threads=1)
    engine = await LocalEngine({"live": runtime}, load=load).start()
    yield engine
    await engine.close()


def asking(model: str, question: str = "Name three rivers.", tokens: int = 12, **changes: object) -> GenerationRequest:
    return GenerationRequest("r", model, CHAT.format(question), tokens, logprobs=2, **changes)  # type: ignore[arg-type]


async def told(engine: Engine, request: GenerationRequest) -> Told:
    """Everything that must repeat: text, tokens, and each token's log-probabilities as floats."""
    tokens: list[object] = []
    async for event in engine.generate(request):
        if isinstance(event, GenerationResult):
            return event.text, event.token_ids, event.fingerprint, tuple(tokens)
        tokens.extend(event.tokens)
    raise AssertionError("no end")


async def test_texts_of_one_model_do_not_depend_on_the_other(engine: LocalEngine, canary: ServedModel) -> None:
    alone = await told(engine, asking("live"))

    async def beside(done: asyncio.Future[object]) -> list[Told]:
        found = [await told(engine, asking("live"))]
        while not done.done():
            found.append(await told(engine, asking("live")))
        return found

    loading = asyncio.ensure_future(engine.serve([canary]))
    assert set(await beside(loading)) == {alone}
    await loading

    canary_alone = await told(engine, asking("canary"))
    assert canary_alone[0] != alone[0]
    busy = asyncio.gather(
        *(told(engine, asking("canary", f"Tell me story {number}.", 20)) for number in range(3)),
        told(engine, asking("canary", "Count.", 20, priority="batch")),
        told(engine, asking("canary")),
    )
    found = await beside(busy)
    assert set(found) == {alone}
    assert len(found) >= 2, "the live model waited until the canary was done"
    assert (await busy)[-1] == canary_alone
    live_busy = asyncio.gather(*(told(engine, asking("live", f"Tell me story {number}.", 20)) for number in range(4)))
    assert await told(engine, asking("canary")) == canary_alone
    assert not live_busy.done(), "the canary waited until the live model was done"
    await live_busy

    last = engine.generate(asking("canary", "Tell me a story.", 20))
    assert isinstance(await anext(last), Delta)
    await engine.serve([])
    with pytest.raises(NotFoundError):
        await told(engine, asking("canary"))

    async def finish() -> object:
        return [event async for event in last][-1]

    assert set(await beside(asyncio.ensure_future(finish()))) == {alone}
    async with asyncio.timeout(5):
        while engine.load().slots > LAYOUT.slots:
            await asyncio.sleep(0.001)
    assert await told(engine, asking("live")) == alone

    await engine.serve([canary])
    assert await told(engine, asking("canary")) == canary_alone


async def test_a_file_that_is_missing_or_changed_is_left_out(
    engine: LocalEngine, canary: ServedModel, tmp_path: Path
) -> None:
    await engine.serve([canary])
    with pytest.raises(CorruptionError, match="sha256"):
        await engine.serve([canary, ServedModel("changed", canary.path, "0" * 64)])
    with pytest.raises(SetupError, match="neither a registered model nor a file"):
        await engine.serve([canary, ServedModel("missing", str(tmp_path / "missing.gguf"), "0" * 64)])
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(canary.path).read_bytes()[: 1 << 20])
    digest = hashlib.sha256(broken.read_bytes()).hexdigest()
    with pytest.raises(SetupError, match="cannot read this model"):
        await engine.serve([canary, ServedModel("broken", str(broken), digest)])
    assert [model.name for model in engine.models()] == ["live", "canary"]
    assert (await told(engine, asking("canary", tokens=4)))[0]


async def test_an_engine_starts_without_the_declared_models_that_it_cannot_load(
    few_layers: Weights, canary: ServedModel, tmp_path: Path
) -> None:
    path, kept = tmp_path / "engine.sock", tmp_path / "engine.models"
    gone = tmp_path / "gone.gguf"
    shutil.copyfile(canary.path, gone)
    options = ("--model", f"live={few_layers.path}", "--models-file", str(kept), "--slots", "2", "--context", "256")
    process = await spawn(path, *options, simulated=False)
    client = EngineClient(path)
    try:
        await answering(client)
        await client.serve([ServedModel("gone", str(gone), canary.sha256), canary])
        expected = await told(client, asking("canary"))
        process.kill()
        await process.communicate()
        gone.unlink()
        process = await spawn(path, *options, simulated=False)
        await answering(client)
        assert {model.name for model in (await client.describe()).models} == {"live", "canary"}
        assert await told(client, asking("canary")) == expected
    finally:
        await client.close()
        process.terminate()
        _, said = await process.communicate()
    assert b"gone" in said
    assert b"Traceback" not in said
    assert process.returncode == 0
