"""Training processes as the worker sees them: started, followed, paused, stopped, and begun again after a crash.

Invariant: at most one process trains in a folder, and none outlives its worker. A process may be killed at any instant,
so every way of ending it is safe; asking first only saves the steps since the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, SetupError
from antiphon.core.ids import new_id
from antiphon.core.memory import resident_bytes
from antiphon.core.scope import Scope
from antiphon.core.telemetry import carried
from antiphon.training import child
from antiphon.training.folder_seal import FolderSeal, folder_seal
from antiphon.training.order import (
    ERROR,
    LOG,
    PROGRESS,
    RESULT,
    Failure,
    TrainingOrder,
    TrainingProgress,
    TrainingResult,
    raised,
    read_result,
    write_order,
)
from antiphon.training.processor_share import ProcessorShare
from antiphon.training.recipe import require_libraries
from antiphon.training.starvation import WINDOW_SECONDS

_COMMAND = (sys.executable, "-m", "antiphon.training.fine_tune")
_RESTARTS = 2
_POLL_SECONDS = 0.1
_LOG_BOUND = 1_000_000
_LEFT_OVER_LOOKS = 1_000
_log = logging.getLogger("antiphon.worker")


class TrainingProcess(msgspec.Struct, frozen=True):
    """A training process that runs now. ``latest`` is what it last told."""

    name: str
    folder: str
    pid: int
    latest: TrainingProgress | None


class TrainingUsage(msgspec.Struct, frozen=True):
    """Counts of a training process since it began.

    Attributes:
        process: an id of its own; one that is begun again has another.
        processor_seconds: of all its threads. byte_seconds: of resident memory, which is read with it.
    """

    process: str
    processor_seconds: float
    byte_seconds: float = 0.0


class TrainingProcesses:
    """The training processes of one worker.

    Call :meth:`run` on a thread that lives as long as the worker: the kernel ends a process when the thread that
    started it ends.

    Args:
        command: what is run with the folder as its argument.
        stop_seconds: how long a process that was asked to stop may take before it is killed.
        codec, scope: open the key of a folder whose examples and checkpoints are sealed.
        floor: share of a core that a training is to get beside other work; one that gets less for a minute has its
            priority raised. 0: it takes only what others leave.
        window: seconds over which its share is taken.
        processor_seconds, set_priority: read and raise a process (``child``).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        command: Sequence[str] = _COMMAND,
        stop_seconds: float = 60.0,
        codec: Codec | None = None,
        scope: Scope | None = None,
        floor: float = 0.0,
        window: float = WINDOW_SECONDS,
        processor_seconds: Callable[[int], float | None] = child.processor_seconds,
        set_priority: Callable[[int, int], bool] = child.set_priority,
    ) -> None:
        self._clock = clock
        self._codec: Codec = codec or PlainCodec()
        self._scope = scope or Scope()
        self._command = tuple(command)
        self._stop_seconds = stop_seconds
        self._processor_seconds = processor_seconds
        self._share = partial(ProcessorShare, floor, window, processor_seconds, set_priority)
        self._children: dict[str, _Child] = {}
        self._listeners: list[Callable[[], object]] = []
        self._folders: set[str] = set()
        self._paused_by: set[str] = set()

    @property
    def paused(self) -> bool:
        """``True`` while processes are held: a new one waits as well."""
        return bool(self._paused_by)

    @property
    def paused_by(self) -> Set[str]:
        """Those who hold processes now."""
        return self._paused_by

    @property
    def running(self) -> tuple[TrainingProcess, ...]:
        """The processes that run now, paused ones included."""
        return tuple(
            TrainingProcess(one.order.name, one.order.folder, one.process.pid, one.latest)
            for one in self._children.values()
        )

    def listen(self, call: Callable[[], object]) -> None:
        """Have this called in the event loop whenever a process has begun or ended."""
        self._listeners.append(call)

    def pause_all(self, by: str = "") -> None:
        """Take the processor from every process at once, in the middle of a step. Calling it again does nothing.

        Args:
            by: one of several who may pause; processes go on once all have resumed.
        """
        self._paused_by.add(by)
        for one in self._children.values():
            one.pause()

    def resume_all(self, by: str = "") -> None:
        """Let every process go on where it was, unless another one pauses it. Calling it again does nothing."""
        self._paused_by.discard(by)
        if self.paused:
            return
        for one in self._children.values():
            one.signal(signal.SIGCONT)

    async def run(
        self,
        order: TrainingOrder,
        on_progress: Callable[[TrainingProgress], None],
        stopping: Callable[[], bool],
        on_usage: Callable[[TrainingUsage], None] = lambda reading: None,
    ) -> TrainingResult:
        """Train as ordered and return what was made; a folder that is complete is not trained again.

        A process that ends without a reason is begun again from its checkpoint, twice.

        Args:
            on_progress: called on the event loop, once a step and with notices.
            stopping: asked a few times a second; once true, the process ends after its step, with a checkpoint.
            on_usage: called on the event loop, a few times a second; what a process used after its last reading, a
                tenth of a second before its end at most, is not read.

        Raises:
            asyncio.CancelledError: it was stopped; the same order goes on from there.
            ConflictError: this worker already trains in that folder.
            InvalidInputError, CorruptionError, SetupError: the order cannot be trained; says what to do.
        """
        order.recipe.check()
        folder = Path(order.folder)
        key = str(folder.resolve())
        if key in self._folders:
            raise ConflictError(
                f"The folder {key} is being trained in.", where=key, next_step="Wait for that training."
            )
        self._folders.add(key)
        try:
            trained, wrong = await asyncio.to_thread(read_result, order)
            if trained is not None:
                return trained
            require_libraries()
            if wrong is not None:
                on_progress(TrainingProgress("loading", 0, order.recipe.steps, notice=wrong))
            await asyncio.to_thread(self._prepare, order)
            for _ in range(_RESTARTS + 1):
                code = await self._once(key, order, on_progress, stopping, on_usage)
                trained, _ = await asyncio.to_thread(read_result, order)
                if trained is not None:
                    return trained
                if code in (child.FAILED, child.DISK_FULL, child.OUT_OF_MEMORY):
                    raise _failure(folder, code, self._seal(order))
                if stopping():
                    raise asyncio.CancelledError
                on_progress(
                    TrainingProgress("loading", 0, order.recipe.steps, notice=f"The training process {_ended(code)}.")
                )
            raise SetupError(
                f"The training process {_ended(code)}, {_RESTARTS + 1} times.",
                where=str(folder / LOG),
                next_step="Read what it last wrote there. If memory is short, lower `batch`; ordered again, it goes on "
                "from the last checkpoint.",
            )
        finally:
            self._folders.discard(key)

    def _prepare(self, order: TrainingOrder) -> None:
        """End what a dead worker left running in the folder, and put the order into it."""
        folder = Path(order.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pid = child.left_over(folder)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            for _ in range(_LEFT_OVER_LOOKS):
                if child.left_over(folder) != pid:
                    break
                time.sleep(0.01)
        for stale in (RESULT, ERROR):
            (folder / stale).unlink(missing_ok=True)
        write_order(order)

    def _seal(self, order: TrainingOrder) -> FolderSeal:
        return folder_seal(Path(order.examples_path).parent, self._codec, self._scope)

    async def _once(
        self,
        key: str,
        order: TrainingOrder,
        on_progress: Callable[[TrainingProgress], None],
        stopping: Callable[[], bool],
        on_usage: Callable[[TrainingUsage], None],
    ) -> int:
        """One process from its start to its end: its exit code."""
        folder = Path(order.folder)
        log = folder / LOG
        if log.exists() and log.stat().st_size > _LOG_BOUND:
            log.unlink()
        follower = _ProgressFollower(folder / PROGRESS)
        key_of_folder = (await asyncio.to_thread(self._seal, order)).key
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(folder),
                "--parent",
                str(os.getpid()),
                *(("--sealed",) if key_of_folder is not None else ()),
                stdin=asyncio.subprocess.DEVNULL if key_of_folder is None else asyncio.subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**os.environ, **child.environment(order.recipe.threads), **carried()},
                start_new_session=True,
            )
        if process.stdin is not None and key_of_folder is not None:
            # Far less than a pipe holds, so that a process which died already does not hold this one up.
            process.stdin.write(key_of_folder.hex().encode() + b"\n")
            process.stdin.close()
        one = self._children[key] = _Child(order, process)
        self._tell()
        share = self._share(process.pid, self._clock.monotonic())
        ended = asyncio.ensure_future(process.wait())
        reading = asyncio.ensure_future(self._read(process.pid, ended, on_usage))
        stop_requested_at: float | None = None
        try:
            if self.paused:
                one.pause()
            while not ended.done():
                await asyncio.wait({ended}, timeout=_POLL_SECONDS)
                for progress in follower.new():
                    one.latest = progress
                    on_progress(progress)
                notice = share.notice(self._clock.monotonic(), self.paused)
                if notice is not None:
                    _log.warning("Training %s: %s.", order.name, notice)
                    latest = one.latest or TrainingProgress("loading", 0, order.recipe.steps)
                    on_progress(msgspec.structs.replace(latest, notice=notice))
                if stop_requested_at is None and stopping():
                    stop_requested_at = self._clock.monotonic()
                    one.ask_to_stop()
                if stop_requested_at is not None and self._clock.monotonic() - stop_requested_at > self._stop_seconds:
                    one.signal(signal.SIGKILL)
        finally:
            if not ended.done():
                one.ask_to_stop()
                await asyncio.wait({ended}, timeout=min(self._stop_seconds, 10.0))
                one.signal(signal.SIGKILL)
                await ended
            await reading
            del self._children[key]
            self._tell()
        return ended.result()

    async def _read(self, pid: int, ended: asyncio.Future[int], on_usage: Callable[[TrainingUsage], None]) -> None:
        """Read a process's counts until it has ended: also while it is stopped, for that takes a step."""
        time_of = asyncio.get_running_loop().time
        name, read_at, held = new_id("training"), time_of(), 0.0
        while not ended.done():
            if (used := self._processor_seconds(pid)) is not None:
                now, before = time_of(), read_at
                read_at, held = now, held + (resident_bytes(pid) or 0) * (now - before)
                on_usage(TrainingUsage(name, used, held))
            await asyncio.wait({ended}, timeout=_POLL_SECONDS)

    def _tell(self) -> None:
        for call in self._listeners:
            call()


class _Child:
    """A process in a session and group of its own."""

    def __init__(self, order: TrainingOrder, process: asyncio.subprocess.Process) -> None:
        self.order = order
        self.process = process
        self.latest: TrainingProgress | None = None
        self._asked = False

    def pause(self) -> None:
        """Stop it, unless it was asked to end: it must run for that."""
        if not self._asked:
            self.signal(signal.SIGSTOP)

    def ask_to_stop(self) -> None:
        """Let it finish its step and end; a paused one is continued first."""
        self._asked = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Signal its whole group."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class _ProgressFollower:
    """Reads the lines that were appended to a file since it was made; a line that is no progress is skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._decoder = msgspec.json.Decoder(TrainingProgress)

    def new(self) -> list[TrainingProgress]:
        """Whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        progress = []
        for line in whole.splitlines():
            with suppress(msgspec.DecodeError):
                progress.append(self._decoder.decode(line))
        return progress


def _failure(folder: Path, code: int, seal: FolderSeal) -> AntiphonError:
    """The error that the process told, or what its exit code says when it could not write."""
    try:
        return raised(msgspec.json.decode(seal.open(ERROR, (folder / ERROR).read_bytes()), type=Failure))
    except (OSError, msgspec.DecodeError, CorruptionError):
        if code != child.FAILED:
            return child.shortage(code, folder)
        return AntiphonError(
            "The training failed without saying why.",
            where=str(folder / LOG),
            next_step="Read what it last wrote there. Order it again: it goes on from the last checkpoint.",
        )


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code} before it was done"
