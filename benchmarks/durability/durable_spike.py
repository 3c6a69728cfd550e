"""DBOS on SQLite against the leased step journal: step cost, resuming after SIGKILL, two executors, stopping.

    python benchmarks/durability/durable_spike.py            # a table, then one JSON line
    python benchmarks/durability/durable_spike.py --steps 50

Each measurement of each contender is a fresh child process in a fresh folder. A step's plain effect is a line
appended to a file (so that executions can be counted); a transactional effect is a row in the catalog's table of
blobs. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from antiphon.core.child_process import start_child

STEPS = 5


def note(folder: Path, text: str) -> None:
    """Append one line; short appends of several processes do not mix."""
    with (folder / "effects").open("a") as out:
        out.write(f"{text}\n")


def effects(folder: Path) -> list[str]:
    path = folder / "effects"
    return path.read_text().split() if path.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


# ---------------------------------------------------------------- contenders, each run in a child process


class Journal:
    """The leased journal of ``antiphon.durable``."""

    def __init__(self, folder: Path, executor: str) -> None:
        from antiphon.catalog.database import Database
        from antiphon.catalog.serving.blobs import Blobs
        from antiphon.core.scope import Scope
        from antiphon.durable.executor import Executor, WorkflowRegistry
        from antiphon.durable.runs import Runs

        self.folder = folder
        self.scope = Scope()
        self.database = Database.open(f"sqlite:///{folder}/catalog.db")
        self.database.migrate()
        self.blobs = Blobs(self.database)
        self.runs = Runs(self.database)
        self.registry = WorkflowRegistry()
        self.registry.add("cost", self.cost)
        self.registry.add("crash", self.crash)
        self.executor = Executor(self.database, self.registry, executor, Scope(), poll=0.05)
        self.times: dict[str, list[float]] = {}

    async def cost(self, run: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        for kind in ("step", "transaction"):
            self.times[kind] = []
            for number in range(arguments["steps"]):
                started = time.perf_counter()
                if kind == "step":
                    await run.step("plain", lambda: 1)
                else:
                    await run.transaction("effect", lambda c, n=number: self.blobs.put(self.scope, b"%d" % n, within=c))
                self.times[kind].append(time.perf_counter() - started)
        return {}

    async def crash(self, run: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        for number in range(STEPS):
            await run.step(f"step-{number}", self.slow, number)
            await run.transaction(
                f"effect-{number}", lambda c, n=number: self.blobs.put(self.scope, b"%d" % n, within=c)
            )
        note(self.folder, "done")
        return {}

    def slow(self, number: int) -> int:
        note(self.folder, f"started-{number}")
        time.sleep(0.2)
        note(self.folder, f"ended-{number}")
        return number

    def submit(self, workflow: str, key: str, steps: int) -> None:
        self.runs.submit(self.scope, workflow, {"steps": steps}, key=key)

    def work(self, until: Callable[[], bool]) -> None:
        async def main() -> None:
            stop = asyncio.Event()
            working = asyncio.create_task(self.executor.run_until(stop))
            while not until():
                await asyncio.sleep(0.005)
            stop.set()
            await working

        asyncio.run(main())

    def ended(self, key: str) -> bool:
        return any(run.key == key and run.status == "succeeded" for run in self.runs.list(self.scope))


class Dbos:
    """DBOS with its own tables and a datasource in the same kind of database, both WAL and ``synchronous=FULL``."""

    def __init__(self, folder: Path, executor: str) -> None:
        import sqlalchemy as sa
        from dbos import DBOS, DBOSPortableJSONSerializer, SQLAlchemyDatasource

        self.folder = folder
        self.dbos = DBOS

        def wal(raw: Any, _record: Any) -> None:
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA synchronous=FULL")

        sa.event.listen(sa.Engine, "connect", wal)
        url = f"sqlite:///{folder}/effects.db"
        SQLAlchemyDatasource.migrate(url)
        self.source = SQLAlchemyDatasource.create(url, serializer=DBOSPortableJSONSerializer())
        with self.source.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS blobs (content TEXT PRIMARY KEY)")
        DBOS(
            config={
                "name": "spike",
                "system_database_url": f"sqlite:///{folder}/dbos.db",
                "executor_id": executor,
                "application_version": "1",
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": "CRITICAL",
            }
        )
        self.times: dict[str, list[float]] = {}
        # DBOS marks the function it decorates, which a bound method does not allow.
        self.cost = DBOS.workflow(name="cost")(lambda steps: self._cost(steps))
        self.crash = DBOS.workflow(name="crash")(lambda steps: self._crash(steps))
        self.plain = DBOS.step(name="plain")(lambda: 1)
        self.slow = DBOS.step(name="slow")(lambda number: self._slow(number))
        self.effect = self.source.transaction(lambda content: self._effect(content))
        DBOS.launch()

    def _effect(self, content: str) -> None:
        import sqlalchemy as sa

        self.source.sql_session().execute(sa.text("INSERT INTO blobs VALUES (:c)"), {"c": content})

    def _cost(self, steps: int) -> None:
        for kind in ("step", "transaction"):
            self.times[kind] = []
            for number in range(steps):
                started = time.perf_counter()
                if kind == "step":
                    self.plain()
                else:
                    self.effect(str(number))
                self.times[kind].append(time.perf_counter() - started)

    def _crash(self, steps: int) -> None:
        for number in range(STEPS):
            self.slow(number)
            self.effect(str(number))
        note(self.folder, "done")

    def _slow(self, number: int) -> int:
        note(self.folder, f"started-{number}")
        time.sleep(0.2)
        note(self.folder, f"ended-{number}")
        return number

    def submit(self, workflow: str, key: str, steps: int) -> None:
        from dbos import SetWorkflowID

        with SetWorkflowID(key):
            self.dbos.start_workflow(self.cost if workflow == "cost" else self.crash, steps)

    def work(self, until: Callable[[], bool]) -> None:
        while not until():
            time.sleep(0.005)
        self.dbos.destroy()

    def ended(self, key: str) -> bool:
        return bool(self.dbos.list_workflows(workflow_ids=[key], status="SUCCESS"))


CONTENDERS: dict[str, Any] = {"journal": Journal, "dbos": Dbos}


def child(name: str, mode: str, folder: Path, executor: str, steps: int) -> None:
    """One process of one measurement; prints one JSON line where it has something to say."""
    started = time.perf_counter()
    contender = CONTENDERS[name](folder, executor)
    opened = time.perf_counter() - started
    if mode == "cost":
        submitted = time.perf_counter()
        contender.submit("cost", "cost", steps)
        contender.work(lambda: contender.ended("cost"))
        print(json.dumps({"opened": opened, "run": time.perf_counter() - submitted, "times": contender.times}))
    elif mode == "crash":
        contender.submit("crash", "crash", 0)
        contender.work(lambda: contender.ended("crash"))
    elif mode == "join":  # a second executor that submits nothing
        contender.work(lambda: "done" in effects(folder))
    elif mode == "stop":
        contender.submit("crash", "crash", 0)
        contender.work(lambda: "started-1" in effects(folder))
        print(json.dumps({"ended": effects(folder)}))


# ---------------------------------------------------------------- measurements


def spawn(name: str, mode: str, folder: Path, executor: str = "one", steps: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", name, mode, str(folder), executor, str(steps)]
    return start_child(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str], seconds: float = 60.0) -> dict[str, Any]:
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {}
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {}


def repeated(done: list[str]) -> list[str]:
    return sorted({effect for effect in done if done.count(effect) > 1})


def measure(name: str, steps: int) -> dict[str, Any]:
    result: dict[str, Any] = {"contender": name}
    with tempfile.TemporaryDirectory() as made:
        cost = finish(spawn(name, "cost", Path(made), steps=steps), 120)
        for kind, times in cost["times"].items():
            milliseconds = sorted(1000 * t for t in times)
            result[f"{kind}_p50_ms"] = round(statistics.median(milliseconds), 2)
            result[f"{kind}_p99_ms"] = round(milliseconds[int(len(milliseconds) * 0.99) - 1], 2)
        result["start_ms"] = round(1000 * cost["opened"])
    for restarted in ("one", "two"):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            first = spawn(name, "crash", folder)
            wait_for(lambda folder=folder: "started-2" in effects(folder))
            first.send_signal(signal.SIGKILL)
            first.communicate()
            killed = time.perf_counter()
            second = spawn(name, "join", folder, executor=restarted)
            resumed = wait_for(lambda folder=folder: effects(folder).count("started-2") == 2, 30)
            key = "same_worker" if restarted == "one" else "other_worker"
            result[f"resumed_by_{key}_s"] = round(time.perf_counter() - killed, 1) if resumed else None
            if not resumed:
                second.kill()
            finish(second)
            result[f"repeated_after_kill_{key}"] = repeated(effects(folder))
    for other in ("one", "two"):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            first = spawn(name, "crash", folder)
            wait_for(lambda folder=folder: "started-0" in effects(folder))
            second = spawn(name, "join", folder, executor=other)
            finish(first), finish(second)
            result["two_executors_same_id_repeat" if other == "one" else "two_executors_repeat"] = repeated(
                effects(folder)
            )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        process = spawn(name, "stop", folder)
        wait_for(lambda: "started-1" in effects(folder))
        asked = time.perf_counter()
        finish(process, 30)
        result["stop_s"] = round(time.perf_counter() - asked, 2)
        result["stop_finished_its_step"] = "ended-1" in effects(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--child", nargs=5)
    arguments = parser.parse_args()
    if arguments.child:
        name, mode, folder, executor, steps = arguments.child
        child(name, mode, Path(folder), executor, int(steps))
        return
    results = [measure(name, arguments.steps) for name in CONTENDERS]
    width = max(len(key) for key in results[0])
    for key in results[0]:
        print(f"{key:<{width}}  " + "  ".join(f"{result.get(key)!s:>24}" for result in results))
    print(json.dumps({"benchmark": "durable_spike", "load_1m": os.getloadavg()[0], "results": results}))


if __name__ == "__main__":
    main()
