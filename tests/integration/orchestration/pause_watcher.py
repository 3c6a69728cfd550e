"""A worker process that trains nothing: it watches an engine and writes pauses for those who train."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from antiphon.catalog.database import Database
from antiphon.catalog.training_pauses import TrainingPauses
from antiphon.core.clock import SystemClock
from antiphon.engine.api.client import EngineClient
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.training_pauses import TrainingPauseExchange
from antiphon.orchestration.worker import work
from antiphon.training.processes import TrainingProcesses


async def watch(catalog: str, socket: Path, host: str) -> None:
    """Watch until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database, training, engine = Database.open(catalog), TrainingProcesses(SystemClock()), EngineClient(socket)
    exchange = TrainingPauseExchange(
        TrainingPauses(database, "dev"),
        training,
        host=host,
        worker="watcher",
        holder="watcher process",
        wakeup=database.doorbell.wakeup("dev", "training"),
    )
    governor = Governor(
        engine, training, host=host, exchange=exchange, quiet=0.1, poll=0.01, watch=engine.describe_when_online
    )
    print("ready", flush=True)
    await work([governor, exchange], stop)
    await engine.close()
    database.close()


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
