"""One project at which ten processes work and are killed: what ``benchmarks.durability.feature_crowd`` runs and
reports."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.durability.feature_chaos import Killed
from tests.chaos.harness import feature_chaos_checks as checks
from tests.chaos.harness import feature_crowd_checks as crowd_checks
from tests.chaos.harness.feature_chaos_child import KEPT
from tests.chaos.harness.feature_chaos_evidence import read_orders, read_stock
from tests.chaos.harness.feature_chaos_lives import Crowd, phase_of
from tests.chaos.harness.feature_chaos_project import batch
from tests.chaos.harness.feature_crowd_child import ROLES
from tests.chaos.harness.feature_crowd_evidence import Crowded, CrowdLooker, cut_power
from tests.chaos.harness.feature_crowd_project import HOURS, SNAPSHOTS_KEPT, redefine, write_crowd

STRIKES = 4
"""Kills of a round while the others go on."""

_LONGEST_AIM, _LONGEST_WAIT = 2.0, 6.0
_PUBLISHERS = ("orders", "again", "stock")


class Harness:
    """One project and its crowd, killed again and again."""

    def __init__(
        self, root: Path, seed: int, redis: Any = None, unsafe: str | None = None, crowd: Crowd | None = None
    ) -> None:
        self._root, self._seed, self._unsafe = root, seed, unsafe
        self._base = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        self._chance = random.Random(seed)
        write_crowd(root, seed, self._base, None if redis is None else redis.url)
        self._history = read_orders(root / "orders.parquet")
        self._looker = CrowdLooker(root, None if redis is None else redis.client())
        self._own = crowd is None
        self._crowd = crowd or Crowd(root, [*ROLES, "settle"])
        self._stock: dict[str, Any] = {}
        self._known_stock: set[Path] = set()
        self._life = self._batch = 0
        self._brute = crowd_checks.Brute(self._history, {})
        self._acknowledged: set[str] = set()
        self._seconds: dict[str, list[float]] = {}
        self._publications: dict[int, dict[str, str]] = {}
        self._offsets: dict[str, int] = {}
        self._runs: set[str] = set()
        self._readings: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.built: list[str] = []
        self.violations: dict[str, list[str]] = {}
        self.kills: list[Killed] = []
        self.rounds = self.power_cuts = self.readings = self.refused = self.tried = 0
        self.found: Crowded | None = None

    def prepare(self) -> None:
        """Apply both versions of the definitions and publish once."""
        hours: dict[str, int] = {}
        for place, hour in enumerate(HOURS):
            if place:
                redefine(self._root)
            said = self._alone("apply")
            keys, _ = json.loads(next(line for line in said if line.startswith("applied ")).partition(" ")[2])
            hours |= {key: hour for key in keys if key.startswith("counted@") and key not in hours}
            self._alone("first")
        self._brute = crowd_checks.Brute(self._history, hours)
        self._look()

    def _alone(self, what: str) -> list[str]:
        said, code = self._crowd.voices["settle"].whole(self._order(what, "settle"))
        assert code == 0, f"{what} failed: {self._last_words()}"
        for line in said:
            self._hear(line)
        return said

    def round(self, only: str | None = None) -> None:
        """Let everybody work, kill some of them, then all; look, settle, look.

        Args:
            only: the role that is killed before all are.
        """
        voices = self._crowd.voices
        said: dict[str, list[str]] = {role: [] for role in ROLES}
        pids = {role: voices[role].begin(self._order("work", role)) for role in ROLES}
        for role in ROLES:
            while (line := voices[role].hear()) != "working" and not line.startswith("ended"):
                said[role].append(line)
        for _ in range(STRIKES):
            role = only or self._chance.choice(ROLES)
            self._aim(role, said[role])
            self._kill(role, pids[role], said)
            pids[role] = voices[role].begin(self._order("work", role))
        time.sleep(self._chance.random())
        self._let_publish(said)
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for role in ROLES:
            self._kill(role, None, said)
        self.rounds += 1
        found = self.cut_power() if self.rounds % 2 == 0 else self._look()
        self._note("readings right", self._right(found, self._readings))
        self._readings = []
        self._settle()

    def _let_publish(self, said: dict[str, list[str]]) -> None:
        """Wait until every publisher has published at least once since it was begun last, on a slow machine too."""
        give_up = time.monotonic() + _LONGEST_WAIT
        for role in _PUBLISHERS:
            while f"end {role}" not in {line.rpartition(" ")[0] for line in said[role]} and time.monotonic() < give_up:
                said[role] += self._crowd.voices[role].heard()
                time.sleep(0.005)

    def cut_power(self) -> Crowded:
        """Lose what was not synced, and look."""
        self.power_cuts += 1
        cut_power(self._root)
        return self._look()

    def _aim(self, role: str, said: list[str]) -> None:
        """Wait for the moment: any, or a fraction of a phase's usual duration after it begins."""
        voice = self._crowd.voices[role]
        phases = sorted({line[3:] for line in said if line.startswith("in ")})
        if not phases or self._chance.random() < 0.5:
            time.sleep(0.1 + 0.5 * self._chance.random())
            return
        phase = self._chance.choice(phases)
        usual = statistics.median(self._seconds.get(phase, [0.01])[-9:])
        said += voice.heard()
        give_up = time.monotonic() + _LONGEST_AIM
        while time.monotonic() < give_up:
            lines = voice.heard()
            said += lines
            if f"in {phase}" in lines:
                time.sleep(self._chance.random() * 1.05 * usual)
                return
            time.sleep(0.001)

    def _kill(self, role: str, pid: int | None, said: dict[str, list[str]]) -> None:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        rest = self._end(role)
        lines = [*said[role], *rest]
        said[role] = []
        if lines and lines[-1] == "failed":
            self._note("no life fails", [f"{role}: {self._last_words()}"])
        self.kills.append(Killed(role, 0.0, f"{role}, {phase_of(lines)}"))
        for line in lines:
            self._hear(line)

    def _end(self, role: str) -> list[str]:
        lines: list[str] = []
        voice = self._crowd.voices[role]
        while not (line := voice.hear()).startswith("ended "):
            lines.append(line)
        voice.reap()
        return lines if line == f"ended {-signal.SIGKILL}" else [*lines, "failed"]

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "acked":
                self._acknowledge(int(rest))
            case "after":
                phase, _, seconds = rest.rpartition(" ")
                self._seconds.setdefault(phase, []).append(float(seconds))
            case "read":
                with suppress(json.JSONDecodeError):  # It was killed as it said so.
                    self._readings.append(json.loads(rest))
            case "refused":
                self.refused += 1
            case "answered":
                self.answered.append(rest)
            case "built":
                self.built.append(rest)

    def _acknowledge(self, number: int) -> None:
        self._acknowledged.update(row["order_id"] for row in batch(self._seed, self._base, number))
        self._batch = max(self._batch, number + 1)

    def _settle(self) -> None:
        found = self.found
        assert found is not None
        predictions = sorted({*self.answered[:1], *self.answered[-3:]})
        datasets = sorted({*self.built[:1], *self.built[-1:]})
        order = self._order("settle", "settle", predictions=predictions, datasets=datasets, collect=self.rounds % 2)
        said, code = self._crowd.voices["settle"].whole(order)
        if code != 0:
            self._note("no life fails", [f"settling, code {code}: {self._last_words()}"])
            return
        told = json.loads(next(line for line in said if line.startswith("settled ")).partition(" ")[2])
        self._acknowledge(self._batch)
        at_once = self.found
        found = self._look()
        assert at_once is not None
        self._note("values right at once", self._right(found, told["at_once"], at_once.offsets))
        self._note("values right when settled", self._right(found, told["settled"], found.offsets))
        behind = [f"{view} stays at {at} of {end}" for view, (at, end) in told["consumed"].items() if at != end]
        self._note("everything is consumed", behind)
        fresh = {run: how for run, how in told["runs"].items() if run not in self._runs}
        self._runs |= fresh.keys()
        self._note("runs end well", [f"{run} {how}" for run, how in fresh.items()])
        self.tried += len(predictions) + len(datasets) + 2
        self._note("what is pinned works", told["pins"])
        if "cutoff" in told:
            self._note("no orphans", checks.no_orphans(found, told["cutoff"], KEPT))

    def _look(self) -> Crowded:
        found = self._looker.look()
        self._note("catalog whole", checks.catalog_whole(found, KEPT))
        self._note("no event lost", checks.events_kept(found, self._acknowledged))
        self._note("offsets go on", checks.offsets_forward(self._offsets, found))
        self._note("publications stay", checks.publications_forward(self._publications, found))
        self._note("publications add up", crowd_checks.steps_right(found))
        self._note("pins kept", crowd_checks.pins_kept(found, SNAPSHOTS_KEPT, self.answered, self.built))
        self._offsets, self._publications, self.found = found.offsets, found.publications, found
        return found

    def _right(
        self, found: Crowded, readings: list[dict[str, Any]], offsets: dict[str, int] | None = None
    ) -> list[str]:
        for path in set(self._root.glob("stock-*.parquet")) - self._known_stock:
            try:
                self._stock.update([read_stock(path)])
            except (OSError, ValueError):
                continue  # Whoever wrote it was killed; nobody has read it.
            self._known_stock.add(path)
        self.readings += len(readings)
        return crowd_checks.readings_right(found, readings, self._brute, self._stock, offsets or {})

    def _order(self, what: str, role: str, **more: Any) -> dict[str, Any]:
        self._life += 1
        return {
            "do": what, "role": role, "root": str(self._root), "seed": self._seed, "base": self._base.isoformat(),
            "batch": self._batch, "life": self._life, "unsafe": self._unsafe, "power": True, **more,
        }  # fmt: skip

    def _note(self, check: str, wrong: list[str]) -> None:
        known = self.violations.setdefault(check, [])
        known += [f"kill {len(self.kills)}: {one}" for one in wrong]

    def _last_words(self) -> str:
        return self._crowd.log.read_text(encoding="utf-8", errors="replace")[-600:]

    def close(self) -> None:
        """End the crowd, unless it was given."""
        if self._own:
            self._crowd.close()
