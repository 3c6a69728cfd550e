"""The oracle within PostgreSQL: triggers that note what is written under an epoch that has passed, in its transaction.

They know the tables and nothing of the product's code. Afterwards the rows alone do not tell: the epoch of a run or of
a job moves on, and what was written late looks like what was written in time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from tests.chaos.harness.chaos_evidence import opened

_MADE = """
CREATE TABLE chaos_stale_commits (
    what text, "of" text, epoch bigint, present bigint, at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION chaos_note_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE now bigint;
BEGIN
    SELECT epoch INTO now FROM runs WHERE tenant = NEW.tenant AND environment = NEW.environment AND id = NEW.run;
    IF now <> NEW.epoch THEN INSERT INTO chaos_stale_commits VALUES ('step', NEW.run, NEW.epoch, now); END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION chaos_note_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE now bigint;
BEGIN
    SELECT epoch INTO now FROM jobs WHERE tenant = NEW.tenant AND environment = NEW.environment AND id = NEW.job;
    IF now <> NEW.epoch THEN INSERT INTO chaos_stale_commits VALUES ('row', NEW.job, NEW.epoch, now); END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION chaos_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_stale_commits VALUES ('second end', NEW.id, NEW.epoch, OLD.epoch);
    RETURN NEW;
END $$;
CREATE TRIGGER chaos_step AFTER INSERT ON steps FOR EACH ROW EXECUTE FUNCTION chaos_note_step();
CREATE TRIGGER chaos_row AFTER INSERT ON job_rows FOR EACH ROW EXECUTE FUNCTION chaos_note_row();
CREATE TRIGGER chaos_end AFTER UPDATE OF status ON runs FOR EACH ROW
    WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled')) EXECUTE FUNCTION chaos_note_end();
"""

LONGEST_TAKE_OVER = 90.0
_POLL = 0.05


def make_triggers(address: str) -> None:
    """Make the triggers in a migrated catalog."""
    with psycopg.connect(address) as connection:
        connection.execute(_MADE)


class TakeOver:
    """What processes held right before they were struck, and how long until others go on with it.

    A run is taken over once a step or a row of another epoch is committed, or the run has ended; a duty once another
    process holds it. When a run was claimed is told beside it.
    """

    def __init__(self, address: str, pids: Sequence[int]) -> None:
        self._struck = time.monotonic()
        self._took: dict[str, float] = {}
        self._claimed: dict[str, float] = {}
        self._address = address
        self._connection = psycopg.connect(address, autocommit=True)
        held = [name for pid in pids for name in self._held(pid)]
        self._duties = {name: self._holder(name) for name in held if name.partition("/")[0] == "duties"}
        workers = [name.removeprefix("worker/") for name in held if name.startswith("worker/")]
        running = "SELECT id, epoch, arguments FROM runs WHERE status = 'running' AND worker = ANY(%s)"
        self._runs = {run: (epoch, opened(given)) for run, epoch, given in self._all(running, workers)}
        self._jobs = dict(self._all("SELECT id, epoch FROM jobs"))

    def seconds(self, longest: float = LONGEST_TAKE_OVER) -> dict[str, list[float]]:
        """Wait for everything, at most so many seconds from the strike; those of each duty, run and claim. What nobody
        took over meanwhile takes the longest time."""
        while self.waits_for() and self._passed() < longest:
            time.sleep(_POLL)
        self._connection.close()
        taken = {
            kind: [self._took.get(name, longest) for name in held]
            for kind, held in (("duty", self._duties), ("run", self._runs))
        }
        return {**taken, "claim": list(self._claimed.values())}

    def waits_for(self) -> set[str]:
        """Look once: the names of the duties and the ids of the runs with which nobody goes on yet."""
        for name, holder in self._duties.items():
            if name not in self._took and self._holder(name) not in (None, holder):
                self._took[name] = self._passed()
        for run in self._runs:
            if run not in self._took and self._goes_on(run):
                self._took[run] = self._passed()
        return {*self._duties, *self._runs} - self._took.keys()

    def _goes_on(self, run: str) -> bool:
        epoch, given = self._runs[run]
        now = self._all("SELECT status, epoch FROM runs WHERE id = %s", run)
        if not now or now[0][0] not in ("queued", "running"):
            return True
        if now[0][1] <= epoch:
            return False
        self._claimed.setdefault(run, self._passed())
        if self._all("SELECT 1 FROM steps WHERE run = %s AND epoch > %s LIMIT 1", run, epoch):
            return True
        job = given.get("job", "")
        rows = "SELECT 1 FROM job_rows WHERE job = %s AND epoch > %s LIMIT 1"
        return bool(self._all(rows, job, self._jobs.get(job, 0)))

    def _held(self, pid: int) -> list[str]:
        return [name for (name,) in self._all("SELECT name FROM leases WHERE holder LIKE %s", f"%/{pid}/%")]

    def _holder(self, name: str) -> str | None:
        found = self._all("SELECT holder FROM leases WHERE name = %s", name)
        return found[0][0] if found else None

    def _passed(self) -> float:
        return round(time.monotonic() - self._struck, 3)

    def _all(self, statement: str, *given: Any) -> list[Any]:
        """The rows of a statement; a server that is started again meanwhile is waited for."""
        while True:
            try:
                return self._connection.execute(statement, given or None).fetchall()
            except psycopg.OperationalError:
                self._reconnect()

    def _reconnect(self) -> None:
        while True:
            try:
                self._connection = psycopg.connect(self._address, autocommit=True)
                return
            except psycopg.OperationalError:
                if self._passed() > LONGEST_TAKE_OVER:
                    raise
                time.sleep(_POLL)
