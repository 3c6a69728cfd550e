"""An engine process like ``python -m antiphon.engine`` but for who decides: one of the policies that are compared."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path

from benchmarks.colocation.points import CONTENDERS, named
from benchmarks.colocation.policies import Insistent

from antiphon.engine import weights
from antiphon.engine.api.server import serve
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout, Runtime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.colocation.engine_process")
    parser.add_argument("--policy", required=True, choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--simulated", action="store_true")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    planner = named(options.policy).make().planner_of_run(time.monotonic)
    engine = await LocalEngine({options.model: _runtime(options)}, planner=planner, executor=Insistent).start()
    await serve(engine, options.socket, stop)


def _runtime(options: argparse.Namespace) -> Runtime:
    if options.simulated:
        from antiphon.engine.backends.simulated.runtime import SimulatedRuntime

        return SimulatedRuntime(options.model, Layout(slots=options.slots, context_tokens=16 * options.context))
    from antiphon.engine.backends.llamacpp.runtime import LlamaCpp

    found = weights.resolve(str(weights.pull(options.model)))
    layout = Layout(slots=options.slots, context_tokens=options.context)
    return LlamaCpp(options.model, found, layout, threads=options.threads)


if __name__ == "__main__":
    main()
