"""Invariants of what is made by staleness: no part is made twice of the same, and in the end each is made of what there
is."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.simulation.conductor_project import KEYS, MAKE
from tests.simulation.conductor_rows import ENDED, CatalogRows, ConductedRun, ConductorObserver, require
from tests.simulation.process import Process
from tests.simulation.run_checks import read

from antiphon.core.codec import unpack
from antiphon.core.ids import content_hash

PARTS = (*(("workflow/clean", key) for key in KEYS), ("workflow/total", ""))


class OrderedPart(msgspec.Struct, frozen=True):
    """An order of a part, as its run says."""

    run: str
    part: tuple[str, str]
    inputs: dict[str, str]


class AssetChecks:
    """Checks of the runs that make parts, and of the parts that there are.

    Attributes:
        files: the content of each file by its path; those that are not there yet are missing.
        reads: what each run read when it worked, by its id.
    """

    def __init__(self, observer: ConductorObserver) -> None:
        self._observer = observer
        self.files: dict[str, str] = {}
        self._orders: dict[str, OrderedPart] = {}
        self._latest: dict[tuple[str, str], OrderedPart] = {}
        observer.checks.append(self)

    def version(self, folder: object, named: str) -> str | None:
        """The version of a file, in the place of its hash."""
        return self.files.get(named)

    def order_of(self, run: str) -> OrderedPart:
        """The part that a run makes."""
        return self._orders[run]

    def __call__(self, process: Process, past: CatalogRows, rows: CatalogRows) -> None:
        for run in rows.runs.values():
            if run.workflow == MAKE and run.id not in past.runs:
                self._ordered(run, rows)

    def _ordered(self, run: ConductedRun, rows: CatalogRows) -> None:
        order = self._read(run.id)
        self._orders[run.id] = order
        before = self._latest.get(order.part)
        self._latest[order.part] = order
        if before is None:
            return
        left = rows.runs[before.run]
        require(left.status in ENDED, f"{order.part} is ordered twice at once")
        require(order.inputs != before.inputs, f"{order.part} is made twice of {order.inputs}: it had {left.status}")

    def _read(self, run: str) -> OrderedPart:
        rows: Any = self._observer.database.execute("SELECT arguments FROM runs WHERE id = ?", (run,)).fetchone()
        part = msgspec.json.decode(unpack(rows[0]).content)["part"]
        return OrderedPart(run, tuple(part["part"]), part["inputs"])

    def rests(self) -> bool:
        """Whether each part that can be made was made of what there is, or failed with it, and is settled."""
        return not list(self._left())

    def _left(self) -> Any:
        """What is still to be made, a sentence each."""
        found: Any = read(self._observer.database, "SELECT asset, partition, run, outcome, version FROM asset_parts")
        parts = {(asset, partition): (run, outcome, version) for asset, partition, run, outcome, version in found}
        failed = False
        for part in PARTS[:-1]:
            file = self.files.get(f"{part[1]}.csv")
            if file is None:
                failed = True
                continue
            order, outcome = self._latest.get(part), parts.get(part, ("", None, None))[1]
            if order is None or order.inputs != {"file/{key}.csv": file}:
                yield f"{part} is not made of {file}: {order}"
            elif outcome is None:
                yield f"{part} is not settled"
            failed |= outcome not in (None, "succeeded")
        total = self._latest.get(PARTS[-1])
        if failed:
            return  # It waits for what failed, or for a file that never came.
        versions = [(key, parts.get((PARTS[0][0], key), ("", None, None))[2]) for key in KEYS]
        if total is None or total.inputs != {"workflow/clean": content_hash(versions)[:32]}:
            yield f"total is not made of {versions}: {total}"

    def check_end(self) -> None:
        """Everything rests, and each part that there is was made by a run that ended well, of what that was ordered
        with."""
        for left in self._left():
            require(False, left)
        query = "SELECT asset, partition, made_by, made_inputs FROM asset_parts WHERE version IS NOT NULL"
        query += " AND asset LIKE 'workflow/%'"
        found: Any = read(self._observer.database, query)
        for asset, partition, made_by, inputs in found:
            run, order = self._observer.rows.runs[made_by], self._orders[made_by]
            require(run.status == "succeeded", f"{asset} {partition} was made by {made_by}, which {run.status}")
            same = order.part == (asset, partition) and order.inputs == msgspec.json.decode(inputs)
            require(same, f"{asset} {partition} is said to be made of {inputs}, and was ordered as {order}")
