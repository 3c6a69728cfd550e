"""The engine as a process: who may connect, and what happens when either side dies."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from antiphon.core.errors import EngineError, UnavailableError
from antiphon.engine.api import frames
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    PROTOCOL,
    Delta,
    FromEngine,
    GenerationRequest,
    GenerationResult,
    Hello,
    ServedModel,
)

SLOW = ("--simulated-decode-milliseconds", "20")
_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


async def spawn(path: Path, *options: str, simulated: bool = True) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "antiphon.engine", "--socket", str(path), "--log-level", "warning", *options]
    if simulated:
        command += ["--simulated", "--model", "words"]
    return await asyncio.create_subprocess_exec(*command, env=dict(os.environ), stderr=asyncio.subprocess.PIPE)


async def answering(client: EngineClient) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(UnavailableError):
                await client.describe()
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def engine_process(path: Path, *options: str) -> AsyncIterator[tuple[EngineClient, asyncio.subprocess.Process]]:
    process = await spawn(path, *options)
    client = EngineClient(path)
    try:
        await answering(client)
        yield client, process
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
        await process.communicate()


def asking(name: str = "r", *, tokens: int = 8, seed: int = 0, **changes: object) -> GenerationRequest:
    return GenerationRequest(name, "words", f"About {name}.\n", tokens, temperature=1.0, seed=seed, **changes)  # type: ignore[arg-type]


async def collect(client: EngineClient, request: GenerationRequest) -> GenerationResult:
    last = None
    async for event in client.generate(request):
        last = event
    assert isinstance(last, GenerationResult)
    return last


async def test_an_engine_killed_mid_answer_fails_its_requests_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path, *SLOW) as (client, process):
        expected = await collect(client, asking())
        events = client.generate(asking())
        assert isinstance(await anext(events), Delta)
        process.kill()
        with pytest.raises(EngineError):
            async for _ in events:
                pass
        await process.wait()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await collect(client, asking())
        again = await spawn(path)  # The dead engine's socket is still there.
        try:
            await answering(client)
            assert (await collect(client, asking())).text == expected.text
        finally:
            again.terminate()
            await again.communicate()
        assert again.returncode == 0
        assert not path.exists()


async def test_sigterm_lets_what_is_in_flight_finish(tmp_path: Path) -> None:
    async with engine_process(tmp_path / "engine.sock", *SLOW) as (client, process):
        events = client.generate(asking())
        assert isinstance(await anext(events), Delta)
        process.send_signal(signal.SIGTERM)
        rest = [event async for event in events]
        assert isinstance(rest[-1], GenerationResult)
        assert await process.wait() == 0
        with pytest.raises(UnavailableError):
            await collect(client, asking())


async def test_a_client_that_vanishes_takes_only_its_own_requests_with_it(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path, "--slots", "4", *SLOW) as (client, _):
        vanishing = EngineClient(path)
        events = [vanishing.generate(asking(f"v{n}", tokens=500, stop=("never",))) for n in range(3)]
        assert all([isinstance(await anext(stream), Delta) for stream in events])
        surviving = asyncio.create_task(collect(client, asking("survivor")))
        assert vanishing._connection is not None
        vanishing._connection._writer.transport.abort()
        assert (await surviving).text
        async with asyncio.timeout(5):
            while (load := (await client.describe()).load).running_online + load.waiting_online:
                await asyncio.sleep(0.01)
        for stream in events:
            with pytest.raises(EngineError):
                async for _ in stream:
                    pass
        await vanishing.close()


async def test_another_protocol_is_refused_by_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path) as (client, _):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(frames.encode(Hello(PROTOCOL + 1, "from the future")))
        assert await frames.read(reader, _decoder) == Hello(PROTOCOL, "engine")
        assert await frames.read(reader, _decoder) is None
        writer.close()
        await writer.wait_closed()
        assert (await collect(client, asking())).text

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.encode(Hello(PROTOCOL + 1, "engine")))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_unix_server(other, tmp_path / "other.sock")
    future = EngineClient(tmp_path / "other.sock")
    with pytest.raises(UnavailableError, match=f"protocol {PROTOCOL + 1}, this side {PROTOCOL}"):
        await future.describe()
    await future.close()
    await left.wait()
    server.close()


async def test_bytes_that_are_no_frames_end_only_their_own_connection(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path) as (client, _):
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x03abc", b"\xff\xff\xff\xff", b"\x00\x00"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(nonsense)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
            await writer.wait_closed()
        assert (await collect(client, asking())).text


async def test_the_socket_is_private_and_served_once(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path) as (client, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = await spawn(path)
        _, complaint = await second.communicate()
        assert second.returncode == 7
        assert b"serves this socket already" in complaint
        assert (await collect(client, asking())).text


async def test_a_socket_that_somebody_removed_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with engine_process(path) as (client, _):
        path.unlink()
        assert (await collect(client, asking())).text, "who is connected stays so"
        async with asyncio.timeout(10):
            while not path.exists():
                await asyncio.sleep(0.1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        other = EngineClient(path)
        assert (await collect(other, asking())).text
        await other.close()


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--model", "absent=/no/such/file.gguf"), 7, b"neither a registered model nor a file"),
        (("--model", "no-such-model"), 7, b"smollm2-135m"),
        (("--model", "words", "--slots", "0"), 2, b"--slots"),
    ],
)
async def test_a_process_that_cannot_start_says_why(
    tmp_path: Path, options: tuple[str, ...], code: int, complaint: bytes
) -> None:
    process = await spawn(tmp_path / "engine.sock", *options, simulated=False)
    _, said = await process.communicate()
    assert process.returncode == code
    assert complaint in said
    assert b"Traceback" not in said
    assert not (tmp_path / "engine.sock").exists()


async def test_one_client_carries_many_requests_and_ids_may_be_reused(tmp_path: Path) -> None:
    async with engine_process(tmp_path / "engine.sock", "--slots", "3") as (client, _):
        same = await asyncio.gather(*(collect(client, asking(seed=seed)) for seed in range(12)))
        alone = [await collect(client, asking(seed=seed)) for seed in range(12)]
        assert [finished.text for finished in same] == [finished.text for finished in alone]
        assert {finished.id for finished in same} == {"r"}


async def test_a_killed_engine_comes_back_with_the_models_it_was_told_to_serve(tmp_path: Path) -> None:
    path, kept = tmp_path / "engine.sock", tmp_path / "run" / "engine.models"
    options = ("--models-file", str(kept), *SLOW)
    models = [ServedModel(f"desk.v{number}", "", f"{number}") for number in range(3)]
    async with engine_process(path, *options) as (client, process):
        await client.serve(models)
        first = await collect(client, msgspec.structs.replace(asking(), model="desk.v1"))
        await client.serve(models[1:])
        process.kill()
        await process.wait()
    kept.with_name("engine.models.partial").write_bytes(b"half a decla")
    async with engine_process(path, *options) as (client, _):
        assert {model.name for model in (await client.describe()).models} == {"words", "desk.v1", "desk.v2"}
        again = await collect(client, msgspec.structs.replace(asking(), model="desk.v1"))
        assert (again.text, again.fingerprint) == (first.text, first.fingerprint)


async def test_an_engine_that_dies_while_it_loads_is_away_for_who_waits(tmp_path: Path) -> None:
    async with engine_process(tmp_path / "engine.sock") as (client, process):
        process.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(client.serve([ServedModel("desk.v1", "", "1")]))
        await asyncio.sleep(0)
        process.kill()
        with pytest.raises(UnavailableError, match="went away"):
            await waiting


async def test_a_description_waits_for_an_online_request_and_no_longer_than_it_is_asked_to(tmp_path: Path) -> None:
    async with engine_process(tmp_path / "engine.sock", *SLOW) as (client, _):
        async with asyncio.timeout(20):
            calm = await client.describe_when_online(0.05)
            assert calm.load.running_online + calm.load.waiting_online == 0
            waiting = asyncio.create_task(client.describe_when_online(60))
            await client.describe()  # Whatever was asked before is known to the engine by now.
            assert not waiting.done()
            batch = client.generate(GenerationRequest("b", "words", "About lakes.\n", 4, priority="batch"))
            assert [event async for event in batch]
            assert not waiting.done(), "a batch request ended it"
            online = client.generate(GenerationRequest("r", "words", "About rivers.\n", 400, stop=("never",)))
            assert isinstance(await anext(online), Delta)
            await waiting
            seen = (await client.describe_when_online(60)).load
            assert seen.running_online + seen.waiting_online == 1
            await online.aclose()


async def test_batch_work_is_held_over_the_wire_for_as_long_as_was_said(tmp_path: Path) -> None:
    async with engine_process(tmp_path / "engine.sock", *SLOW) as (client, _):
        async with asyncio.timeout(20):
            held = await client.hold_batch(30)
            assert held.load.batch_held_seconds > 25
            batch = asyncio.create_task(
                collected(client, GenerationRequest("b", "words", "About.\n", 4, priority="batch"))
            )
            online = await collected(client, GenerationRequest("o", "words", "About.\n", 4))
            assert online.usage.completion_tokens == 4
            assert not batch.done()
            assert (await client.describe()).load.generated_tokens_batch == 0
            await client.hold_batch(0)
            assert (await batch).usage.completion_tokens == 4


async def collected(client: EngineClient, request: GenerationRequest) -> GenerationResult:
    async for event in client.generate(request):
        last = event
    assert isinstance(last, GenerationResult)
    return last


async def test_a_link_to_a_socket_that_is_gone_is_free(tmp_path: Path) -> None:
    link = tmp_path / "engine.sock"
    link.symlink_to(tmp_path / "gone.sock")  # Its supervisor was killed while the engine was stopped.
    async with engine_process(link) as (client, _):
        assert (await collect(client, asking())).text
