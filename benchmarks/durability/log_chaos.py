"""The event log on NATS under kills: publishers, a consumer and the server at once, one of them killed at a time.

Run ``python -m benchmarks.durability.log_chaos --size full`` (200 kills), ``demo`` (60) or ``ci`` (8): a table, then
one line of JSON.

Two publishers append batches of one stream, some again that were appended before; a consumer moves them into the
online store; a refresher publishes again and again; nats-server keeps the events. One of the five is drawn and killed
with SIGKILL at a drawn moment, the server is started again after a drawn while, and those that live must go on by
themselves. Then all is stopped, by SIGKILL too, and looked at from outside: the stream over a socket, the overlay's
offsets in LMDB. A new process appends what had no answer, ends what is open, consumes to the end and reads every value,
which brute force over the stream's events makes again.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import command
from tests.chaos.harness import feature_chaos_checks as checks
from tests.chaos.harness.feature_chaos_evidence import Event, Looker, read_orders, read_stock
from tests.chaos.harness.feature_chaos_project import STREAM, batch, write_project
from tests.chaos.harness.log_chaos_evidence import stream_events, stream_state
from tests.chaos.harness.running import scratch

from antiphon.core.child_process import start_child

SEED = 20130411
SIZES = {"ci": 8, "demo": 60, "full": 200}
PUBLISHERS = ("even", "odd")
VICTIMS = (*PUBLISHERS, "consumer", "refresher", "server")
NAME = f"antiphon_default_dev_{STREAM}"

_LONGEST = 60.0


class Report(msgspec.Struct, frozen=True):
    """What came of a run; ``violations`` by check, all empty when the log held.

    Attributes:
        kills: how many of each victim.
        acknowledged, events: event ids that were acknowledged, and events in the stream.
        values: values that were read and compared.
    """

    seed: int
    kills: dict[str, int]
    violations: dict[str, list[str]]
    acknowledged: int
    events: int
    values: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was violated."""
        return not any(self.violations.values())


class Lives:
    """The zygote, and the lives that it forks, several at once."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "lives.log"
        with self.log.open("ab") as log:
            self._zygote = start_child(
                [sys.executable, "-m", "tests.chaos.harness.log_chaos_child"],
                cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._said: dict[str, queue.SimpleQueue[str]] = {}
        self._pids: dict[str, int] = {}
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        assert self.hear("zygote") == "ready"

    def _of(self, name: str) -> queue.SimpleQueue[str]:
        return self._said.setdefault(name, queue.SimpleQueue())

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            name, _, rest = line.decode().rstrip("\n").partition(" ")
            self._of(name).put(rest)

    def hear(self, name: str) -> str:
        """The next thing that a life says."""
        try:
            return self._of(name).get(timeout=_LONGEST)
        except queue.Empty:
            raise AssertionError(f"{name} said nothing for {_LONGEST} s: {self.last_words()}") from None

    def heard(self, name: str) -> list[str]:
        """What it said and nobody has listened to yet."""
        found = []
        while not self._of(name).empty():
            found.append(self._of(name).get())
        return found

    def begin(self, name: str, order: dict[str, Any]) -> None:
        """Start a life."""
        self._tell({"name": name, **order})
        word, pid = self.hear(name).split()
        assert word == "pid"
        self._pids[name] = int(pid)

    def end(self, name: str, *, kill: bool = True) -> tuple[list[str], int]:
        """Kill a life, or wait for its end; what it said until then and how it ended."""
        pid = self._pids.pop(name)
        if kill:
            os.kill(pid, signal.SIGKILL)  # unreaped until the next line, so it is this one
        self._tell({"name": name, "do": "reap"})
        said: list[str] = []
        while not (line := self.hear(name)).startswith("ended "):
            said.append(line)
        return said, int(line.split()[1])

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        self._zygote.stdin.flush()

    def last_words(self) -> str:
        """The end of what lives complained of."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def close(self) -> None:
        """End the zygote; lives that are left are killed."""
        for name in list(self._pids):
            self.end(name)
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(_LONGEST)
        self._listening.join(_LONGEST)
        self._zygote.stdout.close()


class Harness:
    """One project and its log's server, killed again and again."""

    def __init__(self, root: Path, seed: int, server: Any, broken: str | None, refreshing: bool) -> None:
        self._root, self._seed, self._server, self._broken = root, seed, server, broken
        self._base = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        self._chance = random.Random(seed)
        write_project(root, seed, self._base)
        with (root / "antiphon.toml").open("a", encoding="utf-8") as settings:
            settings.write(f'log = "{server.url}"\n')
        self._history = read_orders(root / "orders.parquet")
        self._stock = dict([read_stock(root / "stock-0.parquet")])
        self._looker = Looker(root)
        self._next = {name: place for place, name in enumerate(PUBLISHERS)}
        self._acknowledged: set[str] = set()
        self._offsets: dict[str, int] = {}
        self._events: list[Event] = []
        self._deck: list[str] = []
        self._refreshing = refreshing
        self._life = 0
        self.violations: dict[str, list[str]] = {}
        self.kills: Counter[str] = Counter()
        self.values = 0
        self._lives = Lives(root)

    @property
    def acknowledged(self) -> int:
        return len(self._acknowledged)

    @property
    def events(self) -> int:
        return len(self._events)

    def prepare(self) -> None:
        """Apply the definitions and publish once."""
        self._lives.begin("first", self._order("prepare", batch=0))
        said, code = self._lives.end("first", kill=False)
        assert code == 0, f"{said}: {self._lives.last_words()}"

    def kill(self, only: str | None = None) -> None:
        """Let all of them work, kill one at a drawn moment, see that the others go on, then stop and look."""
        victim = only or self._drawn()
        for name in PUBLISHERS:
            self._lives.begin(name, self._order("publish", batch=self._next[name], step=len(PUBLISHERS)))
        self._lives.begin("consumer", self._order("consume"))
        working = [*PUBLISHERS, "consumer"]
        if self._refreshing:
            self._lives.begin("refresher", self._order("refresh"))
            working.append("refresher")
        self._await([name for name in working if name != "refresher"])
        time.sleep(self._chance.random() * 0.15)
        if victim == "server":
            self._server.kill()
            time.sleep(self._chance.choice((0.0, self._chance.random() * 0.4)))
            self._server.start()
        else:
            self._stop(victim)
            working.remove(victim)
        self.kills[victim] += 1
        self._hear(working)
        # A refresh that met a server that was away is tried again after a while, which is not waited for.
        self._await([name for name in working if name != "refresher"])
        for name in working:
            self._stop(name)
        self._look()
        self._settle()

    def _drawn(self) -> str:
        """Each of them once in a drawn order, then again."""
        if not self._deck:
            victims = [name for name in VICTIMS if name != "refresher" or self._refreshing]
            self._deck = self._chance.sample(victims, len(victims))
        return self._deck.pop()

    def _await(self, names: list[str]) -> None:
        """Until each of them has done something more."""
        for name in names:
            if not self._take(name, self._lives.hear(name)):
                return

    def _hear(self, names: list[str]) -> None:
        for name in names:
            for line in self._lives.heard(name):
                self._take(name, line)

    def _take(self, name: str, line: str) -> bool:
        word, _, rest = line.partition(" ")
        if word == "acked":
            self._acknowledge(int(rest))
            self._next[name] = int(rest) + len(PUBLISHERS)
        elif word == "failed":
            self._note("no life fails", [f"{name}: {rest}"])
            return False
        return True

    def _stop(self, name: str) -> None:
        said, code = self._lives.end(name)
        for line in said:
            self._take(name, line)
        if code != -signal.SIGKILL:
            self._note("no life fails", [f"{name} ended by itself with {code}: {self._lives.last_words()}"])

    def _acknowledge(self, number: int) -> None:
        self._acknowledged.update(row["order_id"] for row in batch(self._seed, self._base, number))

    def _look(self) -> Any:
        state = stream_state(self._server.port, NAME)
        end = int(state["last_seq"])
        if (state["first_seq"], state["messages"], state.get("num_deleted", 0)) != (1, end, 0):
            self._note("no event lost", [f"the stream has holes: {state}"])
        if end < len(self._events):
            self._note("offsets go on", [f"the stream had {len(self._events)} events and has {end}"])
            self._events = []
        self._events += stream_events(self._server.port, NAME, len(self._events), end)
        found = msgspec.structs.replace(self._looker.look(), events=self._events)
        self._note("catalog whole", checks.catalog_whole(found, 1))
        self._note("no event lost", checks.events_kept(found, self._acknowledged))
        self._note("offsets go on", checks.offsets_forward(self._offsets, found))
        self._offsets = found.offsets
        return found

    def _settle(self) -> None:
        self._lives.begin("settling", self._order("settle", batches=list(self._next.values())))
        line = self._lives.hear("settling")
        rest, code = self._lives.end("settling", kill=False)
        word, _, content = line.partition(" ")
        if word != "settled" or code != 0:
            self._note("no life fails", [f"settling: {line} {rest}"])
            return
        for name, number in self._next.items():
            self._acknowledge(number)
            self._next[name] = number + len(PUBLISHERS)
        told, found = json.loads(content), self._look()
        self.values += sum(len(values) for one in told["readings"] for values in one["values"].values())
        wrong = checks.values_right(found, told["readings"], self._history, self._stock, found.offsets)
        self._note("values right", wrong)
        self._note("runs end well", [f"{run} {how}" for run, how in told["runs"].items() if not _away(how)])
        behind = [f"{view} stays at {at} of {end}" for view, (at, end) in told["consumed"].items() if at != end]
        self._note("everything is consumed", behind)

    def reread(self) -> None:
        """Every event of the stream once more, which must be what it was."""
        again = stream_events(self._server.port, NAME, 0, len(self._events))
        changed = [f"offset {was[0]} changed" for was, now in zip(self._events, again, strict=True) if was != now]
        self._note("what was read stays", changed)

    def _order(self, what: str, **more: Any) -> dict[str, Any]:
        self._life += 1
        return {
            "do": what, "root": str(self._root), "seed": self._seed, "base": self._base.isoformat(),
            "life": self._life, "break": self._broken if what in ("publish", "consume") else None, **more,
        }  # fmt: skip

    def _note(self, check: str, wrong: list[str]) -> None:
        known = self.violations.setdefault(check, [])
        known += [f"kill {self.kills.total()}: {one}" for one in wrong]

    def close(self) -> None:
        """End what runs."""
        self._lives.close()


def _away(how: str) -> bool:
    """Whether a run failed because the server was away for as long as it was tried."""
    return any(words in how for words in ("does not answer", "a moment ago", "no JetStream"))


def measure(
    root: Path,
    kills: int,
    seed: int,
    *,
    broken: str | None = None,
    only: str | None = None,
    refreshing: bool = True,
    say: Any = None,
) -> Report:
    """Kill so often, in an empty folder.

    Args:
        broken: a defence that is switched off; then the run ends with the first violation.
        only: whom to kill.
        refreshing: whether there is a refresher.
    """
    from tests.servers import NatsProcess

    began = time.monotonic()
    server = NatsProcess()
    try:
        server.start()
        harness = Harness(root, seed, server, broken, refreshing)
        try:
            harness.prepare()
            for _ in range(kills):
                harness.kill(only)
                if say is not None:
                    wrong = sum(map(len, harness.violations.values()))
                    say.write(f"\r{harness.kills.total():4}/{kills}  {wrong} violations ")
                    say.flush()
                if broken is not None and any(harness.violations.values()):
                    break
            harness.reread()
        finally:
            harness.close()
    finally:
        server.remove()
    if say is not None:
        say.write("\n")
    return Report(
        seed=seed,
        kills=dict(harness.kills),
        violations=harness.violations,
        acknowledged=harness.acknowledged,
        events=harness.events,
        values=harness.values,
        seconds=round(time.monotonic() - began, 1),
    )


def table(report: Report) -> str:
    """The report for people."""
    killed = ", ".join(f"{number} of {name}" for name, number in sorted(report.kills.items()))
    lines = [
        f"seed {report.seed}: {sum(report.kills.values())} kills ({killed}) in {report.seconds:.0f} s",
        f"  {report.acknowledged} events acknowledged, {report.events} in the stream; {report.values} values compared",
    ]
    for check, wrong in report.violations.items():
        lines.append(f"  {'FAIL' if wrong else 'ok  '} {check}" + (f": {len(wrong)} violations" if wrong else ""))
        lines += [f"         {one[:300]}" for one in wrong[:5]]
    return "\n".join(lines)


def run(size: str, say: Any = None) -> dict[str, Any]:
    """A run at a size; the JSON line."""
    with scratch() as folder:
        report = measure(Path(folder) / "log", SIZES[size], SEED, say=say)
    if say is not None:
        say.write(table(report) + "\n")
    violations = {check: len(wrong) for check, wrong in report.violations.items()}
    return {
        "benchmark": "log_chaos", "size": size, "holds": report.holds,
        **msgspec.to_builtins(report), "violations": violations,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(command("log_chaos", __doc__, SIZES, run))
