"""The training process from outside: the same bytes whatever happened to it, and a reason for every refusal."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.autogroups import session_nice
from tests.integration.learning.training_hosts import carry
from tests.integration.training.conftest import SHARE, TINY, Reference
from tests.integration.training.tiny import flights, order, train_here
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.core.clock import SystemClock
from antiphon.core.disk import file_sha256
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, InvalidInputError, SetupError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.training import child
from antiphon.training.base import Base
from antiphon.training.batches import TokenizedExample
from antiphon.training.fine_tune import Training
from antiphon.training.folder_seal import folder_seal
from antiphon.training.order import PROGRESS, ParentAdapter, TrainingOrder, TrainingProgress, TrainingResult
from antiphon.training.processes import TrainingProcesses, TrainingUsage
from antiphon.training.recipe import Recipe

BOUND = 400.0
"""Seconds; generous, because training takes only what others leave of the processor."""

PEFT_WARNING = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
"""peft reads a property of transformers that its next release renames."""


def never() -> bool:
    return False


async def train(
    ordered: TrainingOrder,
    on_progress: Callable[[TrainingProgress], None] = lambda _: None,
    stopping: Callable[[], bool] = never,
    processes: TrainingProcesses | None = None,
) -> TrainingResult:
    started = processes or TrainingProcesses(SystemClock(), **SHARE)
    return await asyncio.wait_for(started.run(ordered, on_progress, stopping), BOUND)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not within 20 s"
        os.sched_yield()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def processor_ticks(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_training_learns_and_says_what_it_made(reference: Reference) -> None:
    trained = reference.trained
    assert [step for step, _ in trained.losses] == list(range(1, TINY.steps + 1))
    assert trained.losses[-1][1] < trained.losses[0][1]
    assert trained.seconds > 0
    assert trained.environment["threads"] == "2"
    assert trained.environment["torch"]
    assert trained.notices == ()
    for made in (trained.adapter, trained.weights):
        assert file_sha256(Path(made.path)) == made.sha256
        assert Path(made.path).stat().st_size == made.size
    folder = Path(reference.order.folder)
    assert not list(folder.rglob("*.partial"))


async def test_a_complete_folder_is_not_trained_again(reference: Reference) -> None:
    log = Path(reference.order.folder) / "training.log"
    before = log.stat().st_mtime_ns
    assert await train(reference.order) == reference.trained
    assert log.stat().st_mtime_ns == before


async def test_stopped_paused_killed_and_with_a_corrupt_checkpoint_it_ends_with_the_same_bytes(
    reference: Reference, base: Path, tmp_path: Path
) -> None:
    ordered = order(tmp_path, base, flights(12), TINY)
    checkpoints = Path(ordered.folder) / "checkpoints"
    seen: list[TrainingProgress] = []
    with pytest.raises(asyncio.CancelledError):
        await train(ordered, seen.append, lambda: any(progress.step >= 1 for progress in seen))
    assert list(checkpoints.glob("*.sha256"))
    assert not (Path(ordered.folder) / "result.json").exists()

    processes = TrainingProcesses(SystemClock(), **SHARE)
    notices: list[str] = []
    killed: list[int] = []

    def interrupt(progress: TrainingProgress) -> None:
        notices.append(progress.notice)
        if progress.stage == "training" and not killed:
            (running,) = processes.running
            # Lowest, unless other work held it back until the floor had to raise it.
            if not any("is raised" in notice for notice in notices):
                assert os.sched_getscheduler(running.pid) == os.SCHED_IDLE
                assert session_nice(running.pid) in (19, None)
            assert os.getpgid(running.pid) == running.pid
            pause(processes, running.pid)
            killed.append(running.pid)
            os.kill(running.pid, signal.SIGKILL)
            until(lambda: child.started_ticks(running.pid) is None)
            flip_last_byte(max(checkpoints.glob("step-*.sha256")).with_suffix(".safetensors"))

    trained = await train(ordered, interrupt, processes=processes)
    assert killed
    assert trained.adapter.sha256 == reference.trained.adapter.sha256
    assert trained.weights.sha256 == reference.trained.weights.sha256
    assert trained.losses == reference.trained.losses
    assert any("SIGKILL" in notice for notice in notices)
    assert any("does not match its hash" in notice for notice in trained.notices)
    assert processes.running == ()


def pause(processes: TrainingProcesses, pid: int) -> None:
    """A pause takes the processor at once, also when it is asked for twice."""
    processes.pause_all()
    processes.pause_all()
    until(lambda: state(pid) == "T")
    assert processes.paused
    stands = processor_ticks(pid)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert processor_ticks(pid) == stands
    processes.pause_all("another")
    processes.resume_all()
    processes.resume_all()
    assert processes.paused, "another one still wants it"
    assert state(pid) == "T"
    processes.resume_all("another")
    assert not processes.paused


@PEFT_WARNING
async def test_in_float32_it_learns_the_same_and_ends_with_the_same_bytes_on_another_host(
    reference: Reference, base: Path, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(TINY, dtype="fp32", threads=1)
    whole = train_here(order(tmp_path / "whole", base, flights(12), recipe))
    assert whole is not None
    ordered = order(tmp_path / "stopped", base, flights(12), recipe)
    checkpoints = Path(ordered.folder) / "checkpoints"
    assert train_here(ordered, lambda: checkpoints.exists()) is None
    elsewhere = order(tmp_path / "elsewhere", base, flights(12), recipe)
    await carry(tmp_path, ordered, elsewhere)
    again = train_here(elsewhere)
    assert again is not None
    told = (Path(elsewhere.folder) / PROGRESS).read_text()
    assert ('"step":1,' in told, '"step":2,' in told) == (False, True)
    assert (again.adapter.sha256, again.weights.sha256) == (whole.adapter.sha256, whole.weights.sha256)
    assert again.losses == whole.losses
    assert (whole.environment["dtype"], whole.environment["device"]) == ("fp32", "cpu")
    # The first loss is that of the same initial values on the same batch, but for rounding.
    assert whole.losses[0][1] == pytest.approx(reference.trained.losses[0][1], rel=0.02)
    assert whole.losses[0][1] != reference.trained.losses[0][1], "nothing was computed in another format"


async def test_corrupt_weights_are_named_and_made_again_from_the_last_checkpoint(
    reference: Reference, tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    shutil.copytree(reference.order.folder, folder)
    moved = {
        name: msgspec.structs.replace(made, path=str(folder / Path(made.path).name))
        for name, made in (("adapter", reference.trained.adapter), ("weights", reference.trained.weights))
    }
    (folder / "result.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(reference.trained, **moved)))
    ordered = msgspec.structs.replace(reference.order, folder=str(folder))
    flip_last_byte(folder / "weights.gguf")
    seen: list[TrainingProgress] = []
    trained = await train(ordered, seen.append)
    assert trained.weights.sha256 == reference.trained.weights.sha256
    assert any("weights.gguf does not match its hash" in progress.notice for progress in seen)
    assert not any(progress.stage == "training" for progress in seen)


async def test_a_paused_process_ends_when_it_is_told_to_stop(base: Path, tmp_path: Path) -> None:
    processes = TrainingProcesses(SystemClock(), **SHARE)
    processes.pause_all()  # A process that starts while training is held waits as well.
    ordered = order(tmp_path, base, flights(12), TINY)
    pids: list[int] = []

    def stopping() -> bool:
        pids.extend(running.pid for running in processes.running)
        return bool(pids)

    with pytest.raises(asyncio.CancelledError):
        await train(ordered, stopping=stopping, processes=processes)
    assert child.started_ticks(pids[0]) is None
    assert not (Path(ordered.folder) / "result.json").exists()


@PEFT_WARNING
def test_training_goes_on_from_an_earlier_version_with_old_examples_among_the_new(
    reference: Reference, base: Path, tmp_path: Path
) -> None:
    earlier = ParentAdapter(reference.trained.adapter.path, reference.trained.adapter.sha256)
    recipe = msgspec.structs.replace(TINY, steps=1, replay=0.5)
    examples = flights(6) + flights(9, old=True)
    ordered = order(tmp_path, base, examples, recipe, parent=earlier)
    trained = train_here(ordered)
    assert trained is not None
    assert trained.losses[0][1] < 0.5 * reference.trained.losses[0][1]  # Not begun anew.
    assert trained.identity != msgspec.structs.replace(ordered, parent=None).identity


@pytest.mark.parametrize(
    ("examples", "said"),
    [((), "empty"), (flights(6, label="delayed"), "'delayed'")],
    ids=["empty", "single class"],
)
async def test_a_set_that_teaches_nothing_is_refused(
    base: Path, tmp_path: Path, examples: tuple[object, ...], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await train(order(tmp_path, base, examples, TINY))  # type: ignore[arg-type]


async def test_changed_files_are_refused_by_name(reference: Reference, base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.safetensors"
    shutil.copy(reference.trained.adapter.path, adapter)
    flip_last_byte(adapter)
    earlier = ParentAdapter(str(adapter), reference.trained.adapter.sha256)
    with pytest.raises(CorruptionError, match="adapter is corrupt") as raised:
        await train(order(tmp_path / "a", base, flights(6), TINY, parent=earlier))
    assert raised.value.where == str(adapter)

    changed = tmp_path / "base.gguf"
    shutil.copy(base, changed)
    ordered = order(tmp_path / "b", changed, flights(6), TINY)
    flip_last_byte(changed)
    with pytest.raises(CorruptionError, match="base model's file was changed"):
        await train(ordered)

    ordered = order(tmp_path / "c", base, flights(6), TINY)
    flip_last_byte(Path(ordered.examples_path))
    with pytest.raises(CorruptionError, match="examples were changed"):
        await train(ordered)


@PEFT_WARNING
def test_a_loss_that_is_not_finite_is_told(base: Path, tmp_path: Path) -> None:
    training = Training(order(tmp_path, base, flights(6), TINY), Base(base))
    before = training.model.masters.detach().clone()
    with pytest.raises(InvalidInputError, match="diverged: at step 3") as raised:
        training.update(training.model.backward([TokenizedExample((1, 2, 3), (0.0, 3e38, 3e38))], 1), 2)
    assert raised.value.where == "recipe.learning_rate"
    assert bool((training.model.masters == before).all())


async def test_too_little_memory_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="out of memory"):
        await train(order(tmp_path, base, flights(6), TINY, memory_bytes=300_000_000))


@PEFT_WARNING
def test_a_full_disk_is_told_and_earlier_checkpoints_stay(base: Path, tmp_path: Path) -> None:
    ordered = order(tmp_path, base, flights(6), TINY)
    folder = Path(ordered.folder)
    checkpoints = folder / "checkpoints"
    assert train_here(ordered, lambda: checkpoints.exists()) is None
    before = sorted(checkpoints.iterdir())
    # A limit on the size of a file stands for the disk: one checkpoint is larger, everything else is smaller.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            train_here(ordered)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert child.explain(raised.value, folder) == child.DISK_FULL
    assert b"disk is full" in (folder / "error.json").read_bytes()
    assert sorted(checkpoints.iterdir()) == before
    assert not (folder / "result.json").exists()
    assert not list(folder.rglob("*.partial"))


async def test_one_training_a_folder(base: Path, tmp_path: Path) -> None:
    processes = TrainingProcesses(SystemClock(), **SHARE)
    ordered = order(tmp_path, base, flights(6), Recipe(rank=4, batch=2, steps=1))
    first = asyncio.create_task(train(ordered, processes=processes))
    await asyncio.sleep(0)
    with pytest.raises(ConflictError):
        await train(ordered, processes=processes)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert processes.running == ()


async def test_a_process_that_only_dies_is_begun_again_twice_and_then_told(base: Path, tmp_path: Path) -> None:
    die = "import os, signal; print('dying', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", die))
    seen: list[TrainingProgress] = []
    with pytest.raises(SetupError, match=r"SIGKILL, 3 times\.") as caught:
        await train(order(tmp_path, base, flights(6), TINY), seen.append, processes=processes)
    assert sum("SIGKILL" in progress.notice for progress in seen) == 3
    assert "dying" not in str(caught.value)  # what a process writes may be anything: it stays in its own log


async def test_each_process_of_a_training_is_read_until_its_end(base: Path, tmp_path: Path) -> None:
    spin = "import os, signal, time\nwhile time.process_time() < 0.6: pass\nos.kill(os.getpid(), signal.SIGKILL)"
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", spin))
    read: dict[str, TrainingUsage] = {}

    def reading(one: TrainingUsage) -> None:
        before = read.setdefault(one.process, one)
        assert one.processor_seconds >= before.processor_seconds
        assert one.byte_seconds >= before.byte_seconds
        read[one.process] = one

    ordered = order(tmp_path, base, flights(6), TINY)
    with pytest.raises(SetupError):
        await processes.run(ordered, lambda _: None, never, reading)
    assert len(read) == 3
    assert all(0.4 < one.processor_seconds <= 0.65 for one in read.values()), read
    assert all(one.byte_seconds / one.processor_seconds > 4e6 for one in read.values()), read


async def test_a_process_that_is_asked_to_stop_is_read_while_it_ends(base: Path, tmp_path: Path) -> None:
    step = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: None)\nwhile time.process_time() < 0.6: pass"
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", step))
    read: list[TrainingUsage] = []
    training = asyncio.ensure_future(
        processes.run(order(tmp_path, base, flights(6), TINY), lambda _: None, never, read.append)
    )
    async with asyncio.timeout(30):
        while not read or not read[-1].processor_seconds > 0.1:
            await asyncio.sleep(0.01)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert read[-1].processor_seconds > 0.4


async def test_the_process_that_a_dead_worker_left_is_ended(base: Path, tmp_path: Path) -> None:
    ordered = order(tmp_path, base, flights(6), TINY)
    folder = Path(ordered.folder)
    folder.mkdir()
    sleeper = "import sys, time; from pathlib import Path; from antiphon.training import child\n"
    sleeper += "with child.alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    left_over = await asyncio.create_subprocess_exec(
        sys.executable, "-c", sleeper, str(folder), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert left_over.stdout is not None
    assert await left_over.stdout.readline() == b"held\n"
    successor = "import sys; from pathlib import Path; from antiphon.training import child\n"
    successor += f"with child.alone(Path(sys.argv[1])): sys.exit({child.OUT_OF_MEMORY})"
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", successor))
    with pytest.raises(SetupError, match="out of memory"):  # It had the folder for itself.
        await train(ordered, processes=processes)
    assert await left_over.wait() == -signal.SIGKILL


async def test_a_process_ends_with_its_worker() -> None:
    worker = "import os, sys; from antiphon.training import child\n"
    worker += "pid = os.fork()\n"
    worker += "if pid == 0: child.confine(os.getppid(), None); print(os.getpid(), flush=True); os.read(0, 1)\n"
    worker += "else: os.read(0, 1)"
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", worker, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    orphan = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    until(lambda: child.started_ticks(orphan) is None)


async def test_a_failure_nobody_foresaw_is_told_with_its_log(base: Path, tmp_path: Path) -> None:
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", f"raise SystemExit({child.FAILED})"))
    with pytest.raises(AntiphonError, match="without saying why"):
        await train(order(tmp_path, base, flights(6), TINY), processes=processes)


async def test_the_key_of_a_sealed_folder_goes_to_the_process_through_a_pipe_and_nowhere_else(
    base: Path, tmp_path: Path
) -> None:
    codec = AesGcmCodec(Keys())
    ordered = order(tmp_path, base, flights(6), TINY)
    tell = "Path(sys.argv[1], 'told').write_text(sys.stdin.readline() + sys.argv[-1])"
    ends = f"import sys; from pathlib import Path; {tell}; raise SystemExit({child.FAILED})"
    processes = TrainingProcesses(SystemClock(), command=(sys.executable, "-c", ends), codec=codec, scope=Scope())
    with pytest.raises(AntiphonError, match="without saying why"):
        await train(ordered, processes=processes)
    key = folder_seal(Path(ordered.examples_path).parent, codec, Scope()).key
    assert key is not None
    told = Path(ordered.folder, "told")
    assert told.read_text() == f"{key.hex()}\n--sealed"
    told.unlink()
    assert not any(key.hex().encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
