"""``python -m antiphon.engine``: one engine process."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from antiphon.core import disk, logs
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.log_files import RotationBounds
from antiphon.core.process_metrics import describe_process, served_metrics
from antiphon.core.supervision import BEAT_SECONDS, Supervision
from antiphon.core.telemetry_export import Telemetry
from antiphon.engine import weights
from antiphon.engine.api.listener import NetworkListener
from antiphon.engine.api.messages import ServedModel
from antiphon.engine.declared_models import DeclaredModels, checked
from antiphon.engine.execution.embedding_executor import Encoder
from antiphon.engine.execution.runtime import Layout, Runtime
from antiphon.engine.execution.swap_space import CAPACITY_BYTES, SwapSpace
from antiphon.engine.scheduling.state import StepBudget
from antiphon.engine.weights import Weights

if TYPE_CHECKING:
    from antiphon.engine.execution.local import LocalEngine

Presence = Callable[["LocalEngine", asyncio.Event], Awaitable[None]]
"""Runs while an engine serves, and returns some time after the event was set: only then the engine drains."""

Locate = Callable[[ServedModel], ServedModel]

_LONG_TURN = 2 * BEAT_SECONDS
"""A turn of the step loop that lasts longer sends no heartbeat; the supervisor bounds how long that may go on."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    return run(arguments, Supervision.inherited())


def as_declared(model: ServedModel) -> ServedModel:
    """The model at the path that was declared."""
    return model


async def _until_stopped(engine: LocalEngine, stop: asyncio.Event) -> None:
    await stop.wait()


def run(
    arguments: Sequence[str] | None,
    supervision: Supervision,
    *,
    network: NetworkListener | None = None,
    presence: Presence = _until_stopped,
    locate: Locate = as_declared,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        network: a listener beside the socket.
        locate: finds the file of a declared model on this machine.
    """
    options = _parser().parse_args(arguments)
    disk.make_private()
    logs.configure(options.log_level.upper())
    bounds = RotationBounds(options.file_bytes, options.files)
    if options.log_file is not None:
        logs.bound(options.log_file, bounds)
    telemetry = Telemetry("engine", options.socket.stem, options.traces, bounds)
    try:
        asyncio.run(_serve(options, supervision, network, presence, locate, telemetry))
    except AntiphonError as error:
        logging.getLogger("antiphon.engine").error("%s", error)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m antiphon.engine", description="Serve models on a Unix socket.")
    parser.add_argument("--socket", type=Path, required=True, help="path of the socket")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME[=PATH]",
        help="a pulled model, or a name for a GGUF file",
    )
    parser.add_argument(
        "--embedding-model",
        action="append",
        default=[],
        metavar="NAME:TOKENS:DIMENSIONS",
        help="a pulled embedding model, its longest text and the numbers of its vectors",
    )
    parser.add_argument(
        "--models-file",
        type=Path,
        metavar="PATH",
        help="file that stores declared models for the next start (default: they are not stored)",
    )
    parser.add_argument("--cache", type=Path, help="folder of pulled models (default: $ANTIPHON_CACHE)")
    parser.add_argument("--slots", type=int, default=16, help="sequences at once")
    parser.add_argument("--context", type=int, default=1024, help="tokens of one sequence")
    parser.add_argument("--chunk", type=int, default=Layout().chunk_tokens, help="tokens of a prefill chunk")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument(
        "--gpu-layers", type=int, default=0, metavar="N", help="layers of each model on the GPU; negative for all"
    )
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs that it uses, for the ledger of cost")
    parser.add_argument("--step-milliseconds", type=float, default=StepBudget().step_seconds * 1e3, help="step budget")
    parser.add_argument(
        "--kept-mib",
        type=int,
        default=CAPACITY_BYTES >> 20,
        help="memory for batch sequences whose slot an online request has taken; beyond it they go to disk",
    )
    parser.add_argument(
        "--kept-folder", type=Path, help="folder for sequences on disk (default: the system's temporary folder)"
    )
    parser.add_argument(
        "--rest-after",
        type=float,
        metavar="SECONDS",
        help="free a model's weights after so long without requests, until the next one",
    )
    parser.add_argument("--drain-seconds", type=float, default=30.0)
    parser.add_argument("--traces", type=Path, help="folder for traces-NAME.jsonl, named as the socket (default: none)")
    parser.add_argument(
        "--metrics", type=Path, help="folder in which it says at which port /metrics are served (default: they are not)"
    )
    parser.add_argument("--log-file", type=Path, help="the file that standard error leads to, set aside at a size")
    parser.add_argument(
        "--file-bytes", type=int, default=RotationBounds().max_bytes, help="that size, and one of traces"
    )
    parser.add_argument("--files", type=int, default=RotationBounds().files, help="of each, with those set aside")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument(
        "--simulated", action="store_true", help="no weights: deterministic words under the names given"
    )
    parser.add_argument("--simulated-call-milliseconds", type=float, default=0.0)
    parser.add_argument("--simulated-decode-milliseconds", type=float, default=0.0)
    parser.add_argument("--simulated-prefill-milliseconds", type=float, default=0.0)
    return parser


def _simulated(options: argparse.Namespace, name: str, sha256: str = "") -> Runtime:
    from antiphon.engine.backends.simulated.runtime import SimulatedRuntime

    return SimulatedRuntime(
        name,
        # The simulated vocabulary is close to bytes: its prompts have about four times as many tokens.
        Layout(options.chunk, options.slots, 16 * options.context),
        call_seconds=options.simulated_call_milliseconds / 1e3,
        decode_seconds=options.simulated_decode_milliseconds / 1e3,
        prefill_seconds=options.simulated_prefill_milliseconds / 1e3,
        weights=sha256,
    )


def _loaded(options: argparse.Namespace, name: str, found: Weights) -> Runtime:
    from antiphon.engine.backends.llamacpp.runtime import LlamaCpp

    layout = Layout(options.chunk, options.slots, options.context)
    return LlamaCpp(name, found, layout, threads=options.threads, gpu_layers=options.gpu_layers)


def _encoder(options: argparse.Namespace, described: str) -> tuple[str, Encoder]:
    name, _, sizes = described.partition(":")
    try:
        tokens, dimensions = (int(size) for size in sizes.split(":"))
    except ValueError:
        raise InvalidInputError(f"{described!r} is not NAME:TOKENS:DIMENSIONS.", where="--embedding-model") from None
    if options.simulated:
        from antiphon.engine.backends.simulated.encoder import SimulatedEncoder

        seconds = options.simulated_prefill_milliseconds / 1e3
        return name, SimulatedEncoder(name, tokens=tokens, dimensions=dimensions, token_seconds=seconds)
    from antiphon.engine.backends.llamacpp.encoder import LlamaCppEncoder

    return name, LlamaCppEncoder(name, weights.resolve(name, options.cache), tokens=tokens, dimensions=dimensions)


def _declared(options: argparse.Namespace, saved: DeclaredModels | None, locate: Locate, model: ServedModel) -> Runtime:
    """A declared model; a simulated one needs no file."""
    if options.simulated:
        return _simulated(options, model.name, model.sha256)
    there = locate(model)
    with nullcontext() if saved is None else saved.loading(model):
        return _loaded(options, model.name, checked(there))


class LoadedModels(msgspec.Struct):
    """The models of the command line that were loaded, and the reasons for which others are missing."""

    runtimes: dict[str, Runtime] = {}
    digests: dict[str, str] = {}
    encoders: dict[str, Encoder] = {}
    missing: dict[str, str] = {}


def load_configured(
    options: argparse.Namespace,
    log: logging.Logger,
    load: Callable[[argparse.Namespace, str, Weights], Runtime] = _loaded,
) -> LoadedModels:
    """Load every model that can be loaded: one that is missing takes none of the others down.

    Args:
        load: makes the runtime of a file.

    Raises:
        AntiphonError: what was wrong with the first, when none can be loaded.
    """
    found, first = LoadedModels(), None
    for model in options.model:
        name, _, source = model.partition("=")
        try:
            if options.simulated:
                found.runtimes[name] = _simulated(options, name)
            else:
                there = weights.resolve(source or name, options.cache)
                found.digests[name], found.runtimes[name] = there.sha256, load(options, name, there)
        except AntiphonError as error:
            first = first or error
            found.missing[name] = error.what
            log.error("Model %s is not served, the others are: %s", name, error)
        else:
            log.info("Model %s is loaded: fingerprint %s.", name, found.runtimes[name].description.fingerprint)
    for described in options.embedding_model:
        try:
            name, encoder = _encoder(options, described)
        except InvalidInputError:
            raise
        except AntiphonError as error:
            first = first or error
            found.missing[described.partition(":")[0]] = error.what
            log.error("Embedding model %s is not served, the others are: %s", described, error)
        else:
            found.encoders[name] = encoder
            log.info("Embedding model %s is loaded: fingerprint %s.", name, encoder.description.fingerprint)
    if first is not None and not found.runtimes:
        raise first
    return found


async def _serve(
    options: argparse.Namespace,
    supervision: Supervision,
    network: NetworkListener | None,
    presence: Presence,
    locate: Locate,
    telemetry: Telemetry,
) -> None:
    from antiphon.engine.api.engine_metrics import engine_registry
    from antiphon.engine.api.server import serve
    from antiphon.engine.execution.local import LocalEngine

    if options.rest_after is not None and not options.rest_after > 0:
        raise InvalidInputError("--rest-after must be positive.", where="--rest-after")
    if options.kept_mib < 0:
        raise InvalidInputError("--kept-mib must not be negative.", where="--kept-mib")
    if options.kept_folder is not None and not options.kept_folder.is_dir():
        raise InvalidInputError("There is no such folder.", where=f"--kept-folder {options.kept_folder}")
    for option in ("slots", "context", "chunk", "threads"):
        if getattr(options, option) < 1:
            raise InvalidInputError(f"--{option} must be at least 1.", where=f"--{option}")
    log = logging.getLogger("antiphon.engine")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not options.simulated:
        from antiphon.engine.backends.llamacpp.library import Library

        Library.get()
    loaded = load_configured(options, log)
    saved = None if options.models_file is None else DeclaredModels(options.models_file)
    engine = LocalEngine(
        loaded.runtimes,
        digests=loaded.digests,
        load=functools.partial(_declared, options, saved, locate),
        save_declaration=None if saved is None else saved.write,
        encoders=loaded.encoders,
        missing=loaded.missing,
        budget=StepBudget(step_seconds=options.step_milliseconds / 1e3),
        rest_after=options.rest_after,
        swap_space=SwapSpace(options.kept_mib << 20, options.kept_folder),
        gpus=options.gpus,
    )
    await engine.start()
    if saved is not None:
        try:
            await engine.serve(saved.read())
        except AntiphonError as error:
            # The others are served; clients declare their models again.
            log.error("Not all of the models in %s are served: %s", options.models_file, error)
    beating = asyncio.create_task(supervision.beat(lambda: engine.turn_seconds < _LONG_TURN))
    listening, leaving = asyncio.Event(), asyncio.Event()

    async def stay() -> None:
        await listening.wait()
        served = ", ".join(model.name for model in engine.models())
        log.info("The engine serves %s on %s%s.", served, options.socket, "" if network is None else f" and {network}")
        try:
            await presence(engine, stop)
        finally:
            leaving.set()

    registry = describe_process(engine_registry(engine.load))
    telemetry.export(registry)
    metrics = served_metrics(registry, options.metrics, options.socket.stem) if options.metrics else nullcontext()
    staying = asyncio.create_task(stay())
    try:
        with metrics:
            await serve(
                engine, options.socket, leaving, network=network, drain_seconds=options.drain_seconds,
                ready=listening.set,
            )  # fmt: skip
    finally:
        staying.cancel()
        beating.cancel()
    (failure,) = await asyncio.gather(staying, return_exceptions=True)
    if isinstance(failure, Exception):
        raise failure
    log.info("The engine has drained and stops.")


if __name__ == "__main__":
    sys.exit(main())
