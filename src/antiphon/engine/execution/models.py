"""The models that an engine serves: found by name, loaded when they are declared, unloaded when no request needs them.

Invariant: a model's vocabulary is not freed while a thread reads it: :meth:`EngineModels.hold` keeps a model until
:meth:`EngineModels.release`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any

from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    NotFoundError,
    SetupError,
    UnavailableError,
    UnsupportedParameterError,
)
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.declared_models import validated
from antiphon.engine.execution.model_executor import ModelExecutor
from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.step_loop import StepLoop

_log = logging.getLogger("antiphon.engine")

LoadModel = Callable[[ServedModel], Runtime]
"""Loads a model from its checked file; called in a thread, one at a time."""

_IDLE_CHECK_SECONDS = 15.0


@dataclass(eq=False, slots=True)
class ModelEntry:
    """A model under its name. ``declared``: not one that the engine was started with."""

    executor: ModelExecutor
    sha256: str | None
    declared: bool
    leaving: bool = False
    used: float = 0.0


class EngineModels:
    """The models of one engine, by the name that callers use; belongs to an event loop.

    Args:
        step_loop: runs the models' executors.
        executors: of the models that the engine was started with.
        make_executor: makes the executor of a runtime. The others are those of ``LocalEngine``.
    """

    def __init__(
        self,
        step_loop: StepLoop,
        executors: Mapping[str, ModelExecutor],
        *,
        digests: Mapping[str, str],
        missing: Mapping[str, str],
        make_executor: Callable[[Runtime], ModelExecutor],
        load: LoadModel | None,
        save_declaration: Callable[[Several[ServedModel]], None] | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._step_loop = step_loop
        self._entries = {
            name: ModelEntry(executor, digests.get(name), declared=False) for name, executor in executors.items()
        }
        self.missing = dict(missing)
        self._refused: dict[str, AntiphonError] = {}
        self._make_executor = make_executor
        self._load = load
        self._save_declaration = save_declaration
        self._monotonic = monotonic
        self._declaring = asyncio.Lock()
        self._declarations: set[asyncio.Future[None]] = set()
        self._held: dict[asyncio.Future[Any], ModelEntry] = {}
        self._closed = False

    @property
    def executors(self) -> tuple[ModelExecutor, ...]:
        """The executors of the served models."""
        return tuple(entry.executor for entry in self._entries.values())

    def find(self, model: str) -> ModelEntry:
        """The entry of a model; raises ``NotFoundError``, or ``UnavailableError`` for one that could not be loaded."""
        entry = self._entries.get(model)
        if entry is None:
            self.require_loaded(model)
            if (refusal := self._refused.get(model)) is not None:
                # Not that the engine is away: whoever asks would take that for a failure of its other models too.
                raise NotFoundError(
                    f"The engine does not serve the model {model!r}, which could not be loaded: {refusal.what}",
                    where="model",
                    next_step=refusal.next_step,
                )
            raise NotFoundError(
                f"The engine does not serve the model {model!r}.",
                where="model",
                next_step="`antiphon status` says what it serves.",
            )
        return entry

    def require_loaded(self, model: str) -> None:
        """Refuse a model that is configured and could not be loaded: ``UnavailableError`` says why."""
        if (why := self.missing.get(model)) is not None:
            raise UnavailableError(
                f"The model {model!r} is configured and could not be loaded: {why}",
                where="model",
                next_step=f"Fetch it (`antiphon models pull {model}`) and restart `antiphon up`; other models answer.",
            )

    def hold(self, entry: ModelEntry, preparation: asyncio.Future[Any]) -> None:
        """Keep a model loaded for a future that reads it, until :meth:`release`."""
        self._held[preparation] = entry

    def release(self, preparation: asyncio.Future[Any]) -> None:
        """End a :meth:`hold`; a model that was to leave meanwhile is unloaded."""
        entry = self._held.pop(preparation)
        if entry.leaving:
            self._unload(entry)

    async def declare(self, models: Several[ServedModel]) -> None:
        """Serve these models beyond those that the engine was started with; see ``Engine.serve``."""
        declaration = validated(models)
        # A caller who goes away in the middle must not leave a model half loaded.
        task = asyncio.get_running_loop().create_task(self._declare(declaration))
        self._declarations.add(task)
        task.add_done_callback(self._declarations.discard)
        await asyncio.shield(task)

    async def _declare(self, declaration: tuple[ServedModel, ...]) -> None:
        async with self._declaring:
            self._require_open()
            absent = self._absent(declaration)
            if absent and self._load is None:
                raise UnsupportedParameterError(
                    f"The engine cannot be told to serve {', '.join(model.name for model in absent)}.", where="models"
                )
            if self._save_declaration is not None:
                await asyncio.to_thread(self._save_declaration, declaration)
            names = {model.name for model in declaration}
            for name in [name for name, entry in self._entries.items() if entry.declared and name not in names]:
                self._unload(self._entries.pop(name))
            self._refused = {name: error for name, error in self._refused.items() if name in names}
            failures = [failure for model in absent if (failure := await self._add(model)) is not None]
            if failures:
                raise failures[0]

    def _absent(self, declaration: tuple[ServedModel, ...]) -> list[ServedModel]:
        absent = []
        for model in declaration:
            entry = self._entries.get(model.name)
            if entry is None:
                absent.append(model)
            elif entry.sha256 not in (None, model.sha256):
                raise ConflictError(
                    f"The engine serves other weights under this name: {entry.sha256}, not {model.sha256}.",
                    where=model.name,
                    next_step="Give the new weights a name of their own.",
                )
        return absent

    async def _add(self, model: ServedModel) -> AntiphonError | None:
        """Load a model and serve it; returns the error if that failed."""
        assert self._load is not None
        try:
            self._require_open()
            executor = await asyncio.to_thread(self._load_executor, self._load, model)
        except AntiphonError as error:
            failure = error
        except (OSError, MemoryError) as error:
            failure = SetupError(f"The model cannot be loaded: {error or 'memory does not suffice'}.", where=model.name)
        else:
            self._refused.pop(model.name, None)
            self._entries[model.name] = ModelEntry(executor, model.sha256, declared=True)
            self._step_loop.join(executor)
            _log.info("Model %s is loaded: fingerprint %s.", model.name, executor.runtime.description.fingerprint)
            return None
        self._refused[model.name] = failure
        _log.error("Model %s is left out: %s", model.name, failure)
        return failure

    def _load_executor(self, load: LoadModel, model: ServedModel) -> ModelExecutor:
        runtime = load(model)
        try:
            return self._make_executor(runtime)
        except BaseException:
            runtime.close()
            raise

    def _unload(self, entry: ModelEntry) -> None:
        entry.leaving = True
        if entry not in self._held.values():
            self._step_loop.leave(entry.executor)

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The engine is shutting down.")

    async def free_idle(self, after: float) -> None:
        """Free the weights of each model that had no request for ``after`` seconds, until the task is cancelled."""
        while True:
            await asyncio.sleep(min(after / 4, _IDLE_CHECK_SECONDS))
            now = self._monotonic()
            for entry in self._entries.values():
                executor = entry.executor
                if not executor.idle or entry in self._held.values() or executor.resting:
                    entry.used = now
                elif now - entry.used >= after:
                    self._step_loop.rest(executor)

    async def close(self) -> None:
        """Refuse further declarations, and wait for those under way and for preparations."""
        self._closed = True
        while running := self._declarations | self._held.keys():
            await asyncio.wait(running)
