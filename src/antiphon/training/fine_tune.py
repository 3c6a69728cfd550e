"""The training process: ``python -m antiphon.training.fine_tune FOLDER``.

It reads ``order.json``, trains, merges, writes ``result.json``, and may be killed at any instant: started again it goes
on from the last whole checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core import disk, logs
from antiphon.core.disk import replace_file
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.telemetry import CARRIER, GENAI, span
from antiphon.core.telemetry_export import Telemetry
from antiphon.training import child
from antiphon.training.checkpoint import FOLDER, Checkpoints, CheckpointState
from antiphon.training.folder_seal import PLAIN, FolderSeal, given_seal
from antiphon.training.lessons import lessons_of
from antiphon.training.order import (
    ADAPTER,
    ERROR,
    PROGRESS,
    RESULT,
    WEIGHTS,
    TrainedFile,
    TrainingOrder,
    TrainingProgress,
    TrainingResult,
    read_order,
)
from antiphon.training.recipe import Recipe, code_identity, libraries, require_libraries

_GRADIENT_NORM = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Train in a folder; returns the exit code: 0 when it is done or was stopped, else see ``child``."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.training.fine_tune", description="Fine-tune in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, help="end when this process ends")
    parser.add_argument("--sealed", action="store_true", help="read the key of the folder from standard input")
    options = parser.parse_args(arguments)
    disk.make_private()
    folder: Path = options.folder.resolve()
    seal = given_seal() if options.sealed else PLAIN
    try:
        order = read_order(folder)
        stopping = child.install_stop()
        child.confine(options.parent, order.memory_bytes)
        with child.alone(folder), closing(Telemetry("training", folder.name)):
            (folder / ERROR).unlink(missing_ok=True)
            with span("train", {GENAI["model"]: order.name}, traceparent=os.environ.get(CARRIER)):
                fine_tune(order, ProgressLog(folder / PROGRESS, order.recipe.steps), stopping, seal)
    except Exception as error:
        code = child.explain(error, folder, seal)
        sys.stderr.write("\n".join(logs.cause_lines(error)) + "\n")
        return code
    return 0


def fine_tune(
    order: TrainingOrder, log: ProgressLog, stopping: Callable[[], bool], seal: FolderSeal = PLAIN
) -> TrainingResult | None:
    """Train as ordered, from where it stands; ``None`` when it was stopped before the end.

    Raises:
        InvalidInputError: nothing can be learned from these examples, or the loss is not finite.
        CorruptionError: the base model, the examples or the earlier adapter were changed.
        SetupError: a library or disk space is missing.
        OSError: the disk is full.
    """
    require_libraries()
    order.recipe.check()
    from antiphon.training.base import Base
    from antiphon.training.model import read_adapter
    from antiphon.training.vocabulary import Vocabulary

    if order.parent is not None:
        read_adapter(Path(order.parent.path), order.parent.sha256)  # Found corrupt before the base model is loaded.

    folder = Path(order.folder)
    base = Base(Path(order.base_path), order.base_sha256)
    lessons = lessons_of(order, Vocabulary(base), base.context_tokens, seal, log.notice)
    training = Training(order, base)
    _require_space(folder, training.checkpoint_bytes, order)
    checkpoints = Checkpoints(folder / FOLDER, order.identity, log.notice, seal)
    if not lessons.begin(training.model, stopping):
        return None
    state = training.resume(checkpoints.load(), order)
    watch = Stopwatch()
    while state.step < order.recipe.steps:
        if stopping():
            return None
        watch.start()
        training.model.clear_gradient()
        loss = lessons.backward(training.model, state.step)
        training.update(loss, state.step)
        state = msgspec.structs.replace(
            state,
            step=state.step + 1,
            losses=(*state.losses, (state.step + 1, loss)),
            seconds=state.seconds + watch.seconds(),
            notices=log.notices(state.notices),
        )
        log.step(state)
        if state.step % order.recipe.checkpoint_every == 0 or state.step == order.recipe.steps or stopping():
            checkpoints.save(state, training.tensors())
    return None if stopping() else _finish(order, base, training, state, log)


class Training:
    """A model and its optimizer (AdamW without decay over the masters, gradient norm at most 1)."""

    def __init__(self, order: TrainingOrder, base: Any) -> None:
        torch = _torch(order.recipe)
        from antiphon.training.model import LoraModel

        self._torch = torch
        self._recipe = order.recipe
        self.model = LoraModel(base, order.recipe)
        if order.parent is not None:
            self.model.continue_from(order.parent)
        self._optimizer = torch.optim.AdamW(
            [self.model.masters], lr=order.recipe.learning_rate, weight_decay=0.0, foreach=False
        )

    @property
    def checkpoint_bytes(self) -> int:
        """The size of one checkpoint."""
        return 3 * 4 * int(self.model.masters.numel())

    def resume(self, found: tuple[CheckpointState, dict[str, Any]] | None, order: TrainingOrder) -> CheckpointState:
        """Go on from a checkpoint, or begin."""
        if found is None:
            return CheckpointState(order.identity, 0)
        state, tensors = found
        with self._torch.no_grad():
            self.model.masters.copy_(tensors["masters"])
        self.model.round()
        self._optimizer.state[self.model.masters] = {
            "step": self._torch.tensor(float(state.step)),
            "exp_avg": tensors["first_moment"].to(self._recipe.device),
            "exp_avg_sq": tensors["second_moment"].to(self._recipe.device),
        }
        return state

    def tensors(self) -> dict[str, Any]:
        """Tensors of a checkpoint."""
        moments = self._optimizer.state[self.model.masters]
        return {
            "masters": self.model.masters.detach().cpu(),
            "first_moment": moments["exp_avg"].cpu(),
            "second_moment": moments["exp_avg_sq"].cpu(),
        }

    def update(self, loss: float, step: int) -> None:
        """Move the masters against the gradient; raises ``InvalidInputError`` when it or the loss is not finite."""
        norm = float(self._torch.nn.utils.clip_grad_norm_([self.model.masters], _GRADIENT_NORM))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise InvalidInputError(
                f"The training diverged: at step {step + 1} the loss is {loss}, the gradient's norm {norm}.",
                where="recipe.learning_rate",
                next_step="Lower the learning rate, or look for an odd example.",
            )
        for settings in self._optimizer.param_groups:
            settings["lr"] = learning_rate(self._recipe, step)
        self._optimizer.step()
        self.model.round()


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step (from 0): linear rise over the warmup, then half a cosine towards 0."""
    rising = max(1, round(recipe.warmup * recipe.steps))
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    share = (step - rising) / max(1, recipe.steps - rising)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


class Stopwatch:
    """Seconds of a step. One in which the process was stopped and continued counts at most its processor time."""

    def __init__(self) -> None:
        self._continued = False
        signal.signal(signal.SIGCONT, self._on_continue)

    def start(self) -> None:
        """Begin a step."""
        self._continued = False
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """Since the step began."""
        wall = time.perf_counter() - self._wall
        return min(wall, time.process_time() - self._processor) if self._continued else wall

    def _on_continue(self, *_: object) -> None:
        self._continued = True


class ProgressLog:
    """Appends progress to the file that the parent follows."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        self._steps = steps
        self._notices: list[str] = []
        self._recent: list[float] = []
        self._seconds = 0.0
        # A line that a killed process left unfinished is ended here, and skipped by the reader.
        self._append(b"\n" if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n") else b"")
        self.stage("loading", 0)

    def stage(self, stage: str, step: int) -> None:
        """A new stage begins."""
        self._write(TrainingProgress(stage, step, self._steps, seconds=self._seconds))

    def step(self, state: CheckpointState) -> None:
        """A step is done."""
        self._recent = [*self._recent[-9:], state.seconds - self._seconds] if self._seconds else self._recent
        self._seconds = state.seconds
        mean = sum(self._recent) / len(self._recent) if self._recent else state.seconds / state.step
        step, loss = state.losses[-1]
        left = mean * (self._steps - step)
        self._write(TrainingProgress("training", step, self._steps, loss, state.seconds, left))

    def notice(self, text: str) -> None:
        """Something the reader should know; it is kept with the result."""
        self._notices.append(text)
        self._write(TrainingProgress("loading", 0, self._steps, notice=text))

    def notices(self, before: tuple[str, ...]) -> tuple[str, ...]:
        """Earlier notices and those of this process."""
        return (*before, *(notice for notice in self._notices if notice not in before))

    def _write(self, progress: TrainingProgress) -> None:
        self._append(msgspec.json.encode(progress) + b"\n")

    def _append(self, content: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(content)


def _finish(
    order: TrainingOrder, base: Any, training: Training, state: CheckpointState, log: ProgressLog
) -> TrainingResult:
    """Write adapter, merged weights and the result, in this order."""
    from antiphon.training.convert import convert

    log.stage("converting", state.step)
    folder = Path(order.folder)
    adapter, weights = folder / ADAPTER, folder / WEIGHTS
    adapter_sha256 = training.model.save(adapter)
    weights_sha256 = convert(base, adapter, weights, order.recipe.precision, adapter_sha256=adapter_sha256)
    trained = TrainingResult(
        identity=order.identity,
        code=code_identity(),
        adapter=TrainedFile(str(adapter), adapter_sha256, adapter.stat().st_size),
        weights=TrainedFile(str(weights), weights_sha256, weights.stat().st_size),
        losses=state.losses,
        seconds=state.seconds,
        environment={
            **libraries(),
            "python": sys.version.split()[0],
            "threads": str(order.recipe.threads),
            "dtype": order.recipe.dtype,
            "device": order.recipe.device,
            "processor": child.processor(),
        },
        notices=log.notices(state.notices),
    )
    replace_file(folder / RESULT, msgspec.json.encode(trained))
    return trained


def _torch(recipe: Recipe) -> Any:
    """torch, set to compute the same each time."""
    import torch as library
    import transformers.utils.logging as reports

    torch: Any = library
    silence: Any = reports.set_verbosity_error
    silence()
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "The training was ordered for a GPU and torch finds none here.",
            where="recipe.device",
            next_step="Train where there is one, or order a new training: it takes what this machine has.",
        )
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # Nothing here reads memory it did not write.
    return torch


def _require_space(folder: Path, checkpoint_bytes: int, order: TrainingOrder) -> None:
    """Refuse to begin what cannot be written: three checkpoints here and three in a lake on the same disk, the adapter,
    and weights in two bytes a value."""
    needed = 7 * checkpoint_bytes + 4 * os.path.getsize(order.base_path)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"The training needs {needed >> 20} MiB of disk and {free >> 20} MiB are free.",
            where=str(folder),
            next_step="Free some space and order it again.",
        )


if __name__ == "__main__":
    sys.exit(main())
