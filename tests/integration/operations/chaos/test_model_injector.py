"""Files of trained models that are exchanged for a while: what an engine makes of them, and that the very file is there
again whatever ends the fault."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.integration.engine.test_process import answering, asking, collect, spawn
from tests.integration.operations.chaos.test_guardians import ends, order, runner, until

from antiphon.core.disk import file_sha256
from antiphon.core.errors import ConflictError, CorruptionError, NotFoundError, SetupError, UnavailableError
from antiphon.engine import weights
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import ServedModel
from antiphon.operations.chaos.faults import ModelDamage
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import RUNNER_GONE, FaultOrder
from antiphon.operations.chaos.model_injector import ModelInjector, original_of, restore_left_over
from antiphon.operations.processes import started_ticks

CONTENT = b"GGUF" + bytes(range(256)) * 1_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "models" / "desk" / "weights.gguf"
    found.parent.mkdir(parents=True)
    found.write_bytes(CONTENT)
    return found


def damaging(folder: Path, file: Path, damage: str = "bytes", duration: str = "600s") -> FaultOrder:
    fault = ModelDamage("desk.v1", duration, "weights", damage)  # type: ignore[arg-type]
    return order(folder, fault, str(file))


@pytest.mark.parametrize("damage", ["bytes", "half", "gone"])
async def test_the_very_file_is_there_again(tmp_path: Path, file: Path, damage: str) -> None:
    before, reader = file.stat(), file.open("rb")
    with reader:
        async with guarded(damaging(tmp_path, file, damage)) as fault:
            assert fault.touched == (f"weights.gguf of desk.v1 ({file})",)
            there = file.read_bytes() if file.exists() else None
            assert there != CONTENT
            assert (there is None) == (damage == "gone")
            if there is not None:
                assert there[:4] == b"GGUF", "the engine takes it for a model"
                assert (len(there) < len(CONTENT)) == (damage == "half")
            assert reader.read() == CONTENT, "what has the file open is not touched"
            with pytest.raises(UnavailableError, match="damaged already"):
                async with guarded(damaging(tmp_path, file)):
                    pass
    after = file.stat()
    assert file.read_bytes() == CONTENT
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_it_is_put_back_when_the_runner_is_killed(tmp_path: Path, file: Path) -> None:
    with runner(tmp_path, damaging(tmp_path, file)) as (process, _):
        assert file.read_bytes() != CONTENT
        process.kill()
        until(lambda: ends(tmp_path) == [RUNNER_GONE])
        assert file.read_bytes() == CONTENT


def test_what_a_killed_guardian_left_is_put_back_by_the_next_command(tmp_path: Path, file: Path) -> None:
    with runner(tmp_path, damaging(tmp_path, file)) as (_, guardian):
        os.kill(guardian, signal.SIGKILL)
        until(lambda: started_ticks(guardian) is None)
        assert file.read_bytes() != CONTENT
    assert restore_left_over(tmp_path / "models") == (file,)
    assert file.read_bytes() == CONTENT
    assert restore_left_over(tmp_path / "models") == ()


def test_a_file_that_is_not_there_is_told_and_nothing_is_left(tmp_path: Path, file: Path) -> None:
    injector = ModelInjector(ModelDamage("desk.v1", "1s"), file.with_name("adapter.safetensors"))
    with pytest.raises(NotFoundError, match="has no file"):
        injector.begin()
    injector.end()
    original_of(file).write_bytes(b"left over")
    injector = ModelInjector(ModelDamage("desk.v1", "1s"), file)
    with pytest.raises(ConflictError):
        injector.begin()
    injector.end()
    assert original_of(file).read_bytes() == b"left over"
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(("damage", "told"), [("bytes", "instead of"), ("half", "instead of"), ("gone", "is neither")])
async def test_an_engine_refuses_a_damaged_model_with_the_reason_and_serves_the_others(
    tmp_path: Path, file: Path, damage: str, told: str
) -> None:
    if not weights.is_cached("smollm2-135m"):
        pytest.skip("the model smollm2-135m is not in the cache")
    shutil.copyfile(weights.resolve("smollm2-135m").path, file)
    trained = ServedModel("default/desk.v1", str(file), file_sha256(file))
    path = tmp_path / "engine.sock"
    options = ("--model", "words=smollm2-135m", "--models-file", str(tmp_path / "declared.json"), "--slots", "2",
               "--context", "256", "--threads", "2")  # fmt: skip
    process, client = await spawn(path, *options, simulated=False), EngineClient(path)

    async def text(model: str) -> Sequence[object]:
        return (await collect(client, msgspec.structs.replace(asking(), model=model))).text

    try:
        await asyncio.wait_for(answering(client), 60)
        await client.serve((trained,))
        before = await text("words"), await text(trained.name)
        async with guarded(damaging(tmp_path, file, damage)):
            assert await text(trained.name) == before[1], "what is loaded goes on"
            process.kill()
            await process.communicate()
            process = await spawn(path, *options, simulated=False)
            await asyncio.wait_for(answering(client), 60)
            assert await text("words") == before[0]
            with pytest.raises((CorruptionError, SetupError), match=told):
                await client.serve((trained,))
            with pytest.raises(NotFoundError, match="which could not be loaded: ") as refused:
                await text(trained.name)  # No failure of the engine, which would open its breaker for other models.
            assert told in str(refused.value)
        await client.serve((trained,))
        assert (await text("words"), await text(trained.name)) == before
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
        await process.communicate()
