"""A project whose every way in is planted with words: what the disk image search and the load of ``encryption`` run on.

The planted files that are the user's own (``definitions.py``, the table's CSV) lie outside of what is searched.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from tests.chaos.harness.running import ready, until
from tests.harness.ports import free_port

from antiphon.core.child_process import die_with_parent, start_child

ROOT = Path(__file__).parents[2]
PASSPHRASE = "planted nowhere but here"
SHOPS = 3_000
KILLED = "killed by itself"
SPILLED_BYTES = 4_000_000
"""So much lies in spill files before their writer is killed."""

_DEFINITIONS = '''"""What the encryption benchmark serves."""

from antiphon import Application, Decoding, Entity, Figure, Prompt, Reuse, Source, col, count, feature_view, last

shop = Entity("shop", keys=["shop"])
orders = Source.stream("orders", event_time="ordered", available_at="known", event_id="order_id")
listings = Source.table("listings", path="@CSV@", event_time="listed", available_at="listed")


@feature_view(entity=shop, source=orders, owner="bench")
class Counted:
    """Orders of a shop, and the note of the last."""

    orders = count(window="28d")
    note = last(col.note, window="28d")


@feature_view(entity=shop, source=listings, owner="bench")
class Listed:
    """What a table says of a shop."""

    remark = last(col.remark, window="28d")
    rows = count(window="28d")


desk = Application(
    "desk", ungated="a benchmark asks at once",
    purpose="bench",
    owner="bench",
    entities=[shop],
    features=[Counted, Listed],
    model="simulated",
    prompt=Prompt(
        system="@PROMPT@",
        template="{{ entity.shop }}: {{ features.counted.orders }} orders, {{ features.listed.rows }}. {{ question }}",
    ),
    decoding=Decoding(max_tokens=24),
    figures=[Figure("counted.orders", step=1), Figure("listed.rows", step=1)],
    reuse=Reuse("fingerprint"),
)
'''

_SETTINGS = """[project]
name = "bench"

[engine]
kind = "simulated"
models = ["simulated"]
slots = 16

[gateway]
port = @PORT@

[worker]
lease = "3s"

[encryption]
mode = "@MODE@"
keyring = "../keyring.json"
secret = "BENCH_PASSPHRASE"
"""


class Planted(msgspec.Struct, frozen=True):
    """Words by the way they came in; each occurs nowhere else."""

    seed: str

    def word(self, way: str) -> str:
        """The word planted in a way."""
        return f"Zq{self.seed}{''.join(part[:4] for part in way.split('-'))}Planted{len(way)}"

    @property
    def words(self) -> dict[str, str]:
        """Every word by its way."""
        return {way: self.word(way) for way in WAYS}


WAYS = (
    "event-id", "event-payload", "event-entity", "table-value", "table-entity", "prompt", "system-message", "question",
    "user", "batch-question", "batch-column", "feedback-text", "refused-question", "training-example",
    "evaluation-answer", "lake-half-write", "online-half-write", "erased-text", "run-error", "run-key", "spill",
)  # fmt: skip


class EncryptedProject(msgspec.Struct, frozen=True):
    """A project on disk: ``folder`` holds it beside its keyring, its sources and a folder for temporary files."""

    folder: Path
    port: int
    mode: str
    planted: Planted

    @property
    def root(self) -> Path:
        return self.folder / "project"

    @property
    def directory(self) -> Path:
        return self.root / ".antiphon"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.directory / "keys" / "admin.key").read_text(encoding="utf-8").strip()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "BENCH_PASSPHRASE": PASSPHRASE,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        }


def make(folder: Path, mode: str, seed: str = "seed") -> EncryptedProject:
    """Write the project, apply it and make its administrator's key."""
    project = EncryptedProject(folder, free_port(), mode, Planted(seed))
    project.root.mkdir(parents=True)
    project.temporary.mkdir()
    word = project.planted.word
    _listings(folder / "listings.csv", word("table-entity"), word("table-value"))
    definitions = _DEFINITIONS.replace("@CSV@", str(folder / "listings.csv")).replace("@PROMPT@", word("prompt"))
    (project.root / "definitions.py").write_text(definitions, encoding="utf-8")
    settings = _SETTINGS.replace("@PORT@", str(project.port)).replace("@MODE@", mode)
    (project.root / "antiphon.toml").write_text(settings, encoding="utf-8")
    run(project, "apply")
    return project


def run(project: EncryptedProject, act: str, *arguments: str, code: int = 0) -> str:
    """Do something in a process of the project; its output.

    Raises:
        RuntimeError: it ended with another code.
    """
    done = subprocess.run(
        die_with_parent((sys.executable, "-m", "benchmarks.governance.encrypted_project", act, str(project.root),
        *arguments)), cwd=project.folder, env=project.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode != code:
        raise RuntimeError(f"{act} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout


@asynccontextmanager
async def serving(project: EncryptedProject, *, worker: bool = True) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """Engine, gateway and worker; whatever still runs at the end is ended."""
    log = project.directory / "logs" / "processes.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start(project, log, json.loads(run(project, "engine-command"))))
        started.append(_start(project, log, (*_PROCESS, "antiphon.app.gateway", str(project.root))))
        await until(lambda: ready(project.url, started[1], log), bool, 60)
        if worker:
            started.append(_start(project, log, (*_PROCESS, "antiphon.app.worker", str(project.root))))
        yield started
    finally:
        for process in reversed(started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_PROCESS = (sys.executable, "-m", "benchmarks.governance.encrypted_project", "process")


def _start(project: EncryptedProject, log: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return start_child(
            command, cwd=project.folder, env=project.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip


class Client:
    """Asks and pushes over HTTP, as an administrator."""

    def __init__(self, project: EncryptedProject) -> None:
        self._http = httpx2.AsyncClient(
            base_url=project.url, headers={"authorization": f"Bearer {project.key}"}, timeout=30.0
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer; raises ``httpx2.HTTPStatusError`` for a refusal."""
        answer = await self._http.post(path, json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, path: str) -> dict[str, Any]:
        """A document."""
        answer = await self._http.get(path)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def ask(self, shop: str, question: str, **more: Any) -> tuple[str, str]:
        """Prediction and text of an answer of the desk."""
        body = {"model": "desk", "entity": {"shop": shop}, "messages": [{"role": "user", "content": question}], **more}
        found = await self.post("/v1/chat/completions", body)
        return found["antiphon"]["prediction"], found["choices"][0]["message"]["content"]

    async def status_of(self, shop: str, question: str) -> int:
        """The status with which a question is answered; 0 when nobody answered."""
        body = {"model": "desk", "entity": {"shop": shop}, "messages": [{"role": "user", "content": question}]}
        try:
            return (await self._http.post("/v1/chat/completions", json=body)).status_code
        except httpx2.HTTPError:
            return 0

    async def publish(self, shops: Sequence[str], note: str, identity: str) -> None:
        """Push an event for each shop, refresh, and wait until both views are published and the stream consumed."""
        ordered = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        events = [
            {"event_id": f"{identity}{number}", "event_time": ordered, "available_at": ordered, "payload": {
                "order_id": f"{identity}{number}", "shop": shop, "note": note, "ordered": ordered, "known": ordered}}
            for number, shop in enumerate(shops)
        ]  # fmt: skip
        for start in range(0, len(events), 500):
            await self.post("/admin/events/orders", {"events": events[start : start + 500]})
        await self.post("/admin/features/refresh", {"key": f"refresh-{time.monotonic_ns()}"})
        await until(lambda: self.get("/admin/publications"), lambda found: bool(found["publications"]), 90)
        await until(lambda: self.get("/admin/streams"), lambda found: all(s["lag"] == 0 for s in found["streams"]), 60)
        await until(lambda: self._answered(shops[0]), lambda status: status == 200, 60)

    async def _answered(self, shop: str) -> int:
        return await self.status_of(shop, "Is there anything yet?")


async def plant(project: EncryptedProject) -> dict[str, str]:
    """Send every word in by its way, kill the processes under load, and crash in the middle of writing files.

    Returns:
        Words by way, an answer's text among them.
    """
    word, words = project.planted.word, dict(project.planted.words)
    entity = word("event-entity")
    async with serving(project) as processes, Client(project) as client:
        await client.publish([word("table-entity"), entity], word("event-payload"), word("event-id"))
        prediction, text = await client.ask(word("table-entity"), word("question"), user=word("user"))
        words["answer"] = text
        messages = [
            {"role": "system", "content": word("system-message")}, {"role": "user", "content": word("question")},
        ]  # fmt: skip
        await client.post("/v1/chat/completions", {"model": "simulated", "messages": messages, "max_tokens": 8})
        remark = {"application": "desk", "kind": "text", "value": word("feedback-text"), "prediction": prediction}
        await client.post("/v1/feedback", remark)
        rows = [
            {"shop": word("table-entity"), "question": f"{word('batch-question')} {line}", "own": word("batch-column")}
            for line in range(8)
        ]
        job = await client.post("/admin/batch", {"application": "desk", "rows": rows, "key": "planted"})
        await until(
            lambda: client.get(f"/admin/batch/{job['id']}"),
            lambda found: found["status"] in ("completed", "failed"),
            90,
        )
        await client.post("/admin/features/refresh", {"key": word("run-key")})
        await client.status_of(word("refused-question"), word("refused-question"))
        load = [asyncio.create_task(client.status_of(word("table-entity"), f"Load {n}?")) for n in range(64)]
        await asyncio.wait(load, return_when=asyncio.FIRST_COMPLETED)
        for process in processes:
            process.kill()
        await asyncio.gather(*load)
    run(project, "crash", project.planted.seed, code=-signal.SIGKILL)
    spilled(project)
    return words


def spilled(project: EncryptedProject) -> bool:
    """Materialize more than fits into memory and kill it once it has spilled; whether it did before it ended."""
    path = project.folder / "large.csv"
    if not path.exists():
        _large(path, project.planted.word("spill"))
    command = (sys.executable, "-m", "benchmarks.governance.encrypted_project", "spill", str(project.root), str(path))
    process = _start(project, project.folder / "spill.log", command)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if _size(project.directory.rglob("duckdb_temp*")) > SPILLED_BYTES:
                return True
            time.sleep(0.02)
        return False
    finally:
        process.kill()
        process.wait()


def _size(files: Iterable[Path]) -> int:
    """Bytes of files, of which some may be gone again."""
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _listings(path: Path, shop: str, remark: str) -> None:
    listed = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("shop", "remark", "listed"))
        rows.writerow((shop, remark, listed))
        rows.writerows((f"shop-{number}", f"{remark} of {number}", listed) for number in range(SHOPS))


def _large(path: Path, word: str) -> None:
    listed = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("shop", "remark", "listed"))
        rows.writerows((f"{word}{number}", f"{word} {number * 7919:020d}", listed) for number in range(400_000))


# What runs in a process of the project.


def _opened(root: Path) -> Any:
    from antiphon.services.project.store import Store

    return Store.open(root)


def _apply(root: Path) -> None:
    from antiphon.core import settings
    from antiphon.services.apply.apply import apply
    from antiphon.services.governance.encryption_setup import initialize
    from antiphon.services.governance.identity import first_key

    if settings.load(root)[0].encryption.mode == "encrypted":
        initialize(root)
    store = _opened(root)
    first_key(store)
    apply(store, principal="bench")
    store.close()


def _engine_command(root: Path) -> None:
    from antiphon.services.engines import commands

    store = _opened(root)
    sys.stdout.write(json.dumps(commands.command(store)))
    store.close()


def _process(module: str, root: Path) -> None:
    import importlib

    sys.exit(importlib.import_module(module).main(["--project", str(root)]))


def _crash(root: Path, seed: str) -> None:
    """Leave every kind of file half-written, and end as by a power cut."""
    from antiphon.durable.claims import ServedRuns
    from antiphon.features.online.lmdb.writer import LmdbWriter
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.training import examples
    from antiphon.training.folder_seal import folder_seal

    word = Planted(seed).word
    store = _opened(root)
    codec, scope = store.database.codec, store.scope
    store.blobs.erase(scope, store.blobs.put(scope, word("erased-text").encode() * 100))
    store.runs.submit(scope, "planted", {"note": word("run-error")})
    claimed = store.runs.claim("bench", ServedRuns(scope.environment, ("planted",)), timedelta(seconds=5))
    store.runs.fail(claimed, f"It cannot use {word('run-error')}.")
    folder = store.paths.directory / "training" / "run_planted"
    folder.mkdir(parents=True, exist_ok=True)
    learned = [
        examples.Example(f"e{number}", word("training-example"), (examples.Part(" yes", 1.0),)) for number in range(50)
    ]
    examples.write(folder / "examples.jsonl", learned, folder_seal(folder, codec, scope))
    store.evaluations.keep_answer(scope, "planted", "row", {"text": word("evaluation-answer")})
    platform = FeaturePlatform(store)
    publication = store.publications.current(scope)
    view, snapshot = next((key.partition("@")[0], found) for key, found in publication.snapshots.items())
    meta = platform.online.open(scope, view, snapshot).meta
    writer = LmdbWriter(store.paths.online / str(scope) / "crash" / "half.mdb", meta, 1, codec, scope)
    for number in range(60_000):
        writer.write([b"h%016d" % number], [word("online-half-write").encode()])
    writer._stored()  # sorted and written, not yet in place
    with platform.lake.writing(scope, ".parquet") as draft:
        draft.write(word("lake-half-write").encode() * 50_000)
        os.kill(os.getpid(), signal.SIGKILL)


def _spill(root: Path, path: str) -> None:
    from antiphon.definitions import project as definitions
    from antiphon.features.offline.compute import ComputeLimits
    from antiphon.features.offline.materialize import Materialization, materialize
    from antiphon.services.features.platform import FeaturePlatform

    text = (root / "definitions.py").read_text(encoding="utf-8")
    large = root.parent / "large_definitions.py"
    large.write_text(text.replace(str(root.parent / "listings.csv"), path), encoding="utf-8")
    store = _opened(root)
    spec = definitions.load(large, "bench").views[
        "Listed" if "Listed" in definitions.load(large, "bench").views else "listed"
    ]
    materialize(
        Materialization(store.scope, spec, datetime.now(UTC)), lake=FeaturePlatform(store).lake, log=store.events,
        clock=store.database.clock, limits=ComputeLimits(memory=48),
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "process":
        _process(sys.argv[2], Path(sys.argv[3]))
    else:
        acts = {"apply": _apply, "engine-command": _engine_command, "crash": _crash, "spill": _spill}
        acts[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
