"""A worker that is killed at one point.

A point is where the process sends itself SIGKILL: ``before:STEP`` (its effect is done, its record is not),
``train:N`` (before that step of the training), ``register`` (inside the transaction), ``row:N`` (of an evaluation), or
``none``.
What was trained is appended to ``FOLDER/trained``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
from tests.integration.learning.learning_desk import LearningDesk

from antiphon.catalog.learning.models import ModelVersions
from antiphon.durable.runs import Runs


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(desk: LearningDesk, folder: Path, point: str) -> None:
    kind, _, detail = point.partition(":")
    record = Runs.record

    def recorded(self: Runs, run: Any, name: str, *rest: Any) -> Any:
        return die() if kind == "before" and name == detail else record(self, run, name, *rest)

    Runs.record = recorded  # type: ignore[method-assign]
    if kind == "register":
        ModelVersions.alias = die  # type: ignore[method-assign]
    asked: list[Any] = []

    def ask(request: Any) -> None:
        asked.append(request)
        if kind == "row" and len(asked) == int(detail):
            die()

    def step(number: int) -> None:
        if kind == "train" and number == int(detail):
            die()
        with (folder / "trained").open("a") as out:
            out.write(f"{number}\n")

    desk.before = ask
    desk.trainer.before_step = step


def run(folder: Path, run: str, point: str) -> None:
    """In a process of its own."""
    asyncio.run(_work(folder, run, point))


async def _work(folder: Path, run: str, point: str) -> None:
    desk = LearningDesk(folder)
    # One example a step, so that there is a middle of the training to be killed in.
    tune = msgspec.structs.replace(desk.application.fine_tune, batch=4)
    desk.application = msgspec.structs.replace(desk.application, fine_tune=tune)
    arm(desk, folder, point)
    await desk.work(run)
    desk.close()
