"""SIGKILL before every write and commit of every transition; two that promote at once. Looked at in SQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.rollout_child import APPLICATION, SCOPE, SECRET, opened, transitions
from tests.harness.outcomes import pair_scorer
from tests.unit.catalog.examples import bundle, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Exposure, Judgement, RolloutRecord, Rollouts
from antiphon.core.child_process import start_child
from antiphon.definitions.application import SLO, Decoding
from antiphon.definitions.learning import Rollout
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper

ROOT = Path(__file__).parents[2]
PLAN = Rollout(shadow=0.5, shadow_pairs=10, canary=(5, 20))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves its writes there as it does on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="antiphon-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def template(place: Path) -> Path:
    """A catalog with a live release and two validated ones, closed, so that it can be copied."""
    folder = place / "template"
    folder.mkdir()
    database = open_database(folder)
    releases = Releases(database)
    for number in range(3):
        made = releases.add(bundle(decoding=Decoding(max_tokens=number + 1), rollout=PLAN), SCOPE, "me", "r").id
        if number == 0:
            releases.activate(SCOPE, APPLICATION, made, "me", "first")
        else:
            releases.set_stage(SCOPE, made, "validated", principal="gates", reason="passed")
    database.erase_free_space()
    database.close()
    return folder


class Child:
    """One process of :mod:`tests.chaos.rollout_child`, spoken to line by line."""

    def __init__(self, mode: str, folder: Path) -> None:
        self._process = start_child(
            [sys.executable, "-m", "tests.chaos.rollout_child", mode, str(folder)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        heard = self._process.stdout.readline().strip()
        assert heard, "the child ended"
        return heard

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@contextmanager
def children(mode: str, folder: Path, count: int = 1) -> Iterator[list[Child]]:
    started = [Child(mode, folder) for _ in range(count)]
    try:
        yield started
    finally:
        for child in started:
            child.close()


def inconsistencies(folder: Path) -> list[str]:
    """What is wrong with a catalog, told from its rows alone."""
    wrong: list[str] = []
    with closing(sqlite3.connect(folder / "catalog.db")) as connection:
        ask = connection.execute
        pointers = ask("SELECT release, sequence FROM release_pointers ORDER BY sequence").fetchall()
        stages: dict[str, list[str]] = {}
        for release, sequence, stage in ask("SELECT release, sequence, stage FROM release_stages ORDER BY 1, 2"):
            stages.setdefault(release, []).append(stage)
            if sequence != len(stages[release]):
                wrong.append(f"{release} has a gap before stage {sequence}")
        rollouts = ask(
            "SELECT id, candidate, control, state, step, held, ended_at FROM rollouts ORDER BY created_at, id"
        ).fetchall()
        moves = ask("SELECT rollout, sequence, state, step, held FROM rollout_moves ORDER BY 1, 2").fetchall()
        audited = ask("SELECT action FROM audit_entries").fetchall()
    live = pointers[-1][0]
    if [sequence for _, sequence in pointers] != list(range(1, len(pointers) + 1)):
        wrong.append("the pointers have a gap")
    holders = [release for release, passed in stages.items() if passed[-1] == "live"]
    if holders != [live]:
        wrong.append(f"{live} is live, and the stage live is {holders}")
    under_way = [row for row in rollouts if row[6] is None]
    if len(under_way) > 1:
        wrong.append("two rollouts are under way")
    for number, (name, candidate, control, state, step, held, ended) in enumerate(rollouts):
        last = [move for move in moves if move[0] == name]
        if not last or last[-1][2:] != (state, step, held) or last[-1][1] != len(last):
            wrong.append(f"{name} is {state}, {step}, {held}; its last move says otherwise")
        if (ended is None) != (state in ("shadow", "canary")):
            wrong.append(f"{name} is {state} and ended at {ended}")
        stage = stages[candidate][-1]
        if ended is None and (live != control or stage != state):
            wrong.append(f"{name} is {state}; its candidate is {stage}, its control is {control}, {live} is live")
        newest = number == len(rollouts) - 1
        if state == "rolled_back" and "rolled_back" not in stages[candidate]:
            wrong.append(f"{name} is rolled back, its candidate never was")
        if state == "promoted" and "live" not in stages[candidate]:
            wrong.append(f"{name} is promoted, its candidate never was live")
        if newest and state == "aborted" and stage != "validated":
            wrong.append(f"{name} is aborted, its candidate is {stage}")
    acts = [action for (action,) in audited]
    if sum(action.startswith("rollout.") for action in acts) != len(moves):
        wrong.append(f"{len(moves)} moves, audited: {acts}")
    if sum(action.startswith("release.") for action in acts) + sum(a == "rollout.promote" for a in acts) != (
        len(pointers) - 1
    ):
        wrong.append(f"{len(pointers)} pointers, audited: {acts}")
    return wrong


def look(database: Database, decision: Any) -> list[RolloutRecord]:
    """A worker that starts after the kill looks at the rollouts until nothing is under way; every rollout there is."""

    def judge(
        rollout: RolloutRecord,
        exposures: Sequence[Exposure],
        pairs: Sequence[Any],
        now: datetime,
        slo: SLO,
        outcome: Any,
        thumbs: Any,
    ) -> Judgement:
        return Judgement(
            rollout.id, 0, SCOPE, rollout.state, rollout.step, decision, "Decided.", (), 0.0, 100.0, 20.0, now
        )

    releases, rollouts = Releases(database), Rollouts(database)
    evidence = EvidenceReader(Exposures(database), ShadowPairs(database), pair_scorer(database), Outcomes(database))
    keeper = RolloutKeeper(
        SCOPE, database, releases, rollouts, Judgements(database), transitions(database), evidence, judge
    )
    for rollout in rollouts.list_active(SCOPE):
        if rollout.held:
            transitions(database).resume(SCOPE, rollout.id, principal="me", reason="on")
    for _ in range(4):
        keeper.look()
    assert verify(AuditLog(database, SECRET), SCOPE).sound
    return rollouts.list(SCOPE)


@contextmanager
def killer(mode: str, template: Path, folder: Path) -> Iterator[Callable[[int], str]]:
    """Gives the catalog in ``folder`` its beginning, and what becomes of it when it is killed at a point."""
    shutil.copytree(template, folder)
    with children(mode, folder) as (child,):
        assert child.hear() == "ready"

        def kill_at(point: int) -> str:
            shutil.rmtree(folder)
            shutil.copytree(template, folder)
            child.say(str(point))
            return child.hear()

        yield kill_at


@pytest.mark.chaos
def test_killed_before_any_write_the_catalog_agrees_with_itself_and_the_next_start_ends_it(
    template: Path, place: Path
) -> None:
    seen: set[tuple[str, int] | None] = set()
    folder = place / "killed"
    with killer("kill", template, folder) as kill_at, opened(folder) as database:
        rollouts = Rollouts(database)
        for point in range(1, 1_000):
            database.close()
            heard = kill_at(point)
            assert inconsistencies(folder) == [], f"killed before statement {point}"
            if heard.startswith("done"):
                break
            assert heard == "9"
            active = rollouts.active(SCOPE, APPLICATION)
            seen.add(None if active is None else (active.state, active.step))
            decision = ("promote", "roll_back")[point % 2]
            ended = {rollout.id: rollout for rollout in look(database, decision)}
            assert inconsistencies(folder) == [], f"looked after {decision} at {point}"
            assert all(rollout.ended_at is not None for rollout in ended.values())
            if active is not None:
                assert ended[active.id].state == {"promote": "promoted", "roll_back": "rolled_back"}[decision]
    assert seen == {None, ("shadow", 0), ("canary", 0), ("canary", 1)}
    assert 14 * 5 < point < 900, "there are fewer kill points than the transitions have writes"


@pytest.mark.chaos
def test_without_transactions_the_kills_are_seen(template: Path, place: Path) -> None:
    found = []
    with killer("torn", template, place / "torn") as kill_at:
        for point in range(2, 10):
            assert kill_at(point) == "9"
            found += inconsistencies(place / "torn")
    assert any("its last move says otherwise" in one for one in found), found
    assert any("its candidate is validated" in one for one in found), found


@pytest.mark.chaos
@pytest.mark.parametrize("act", ["begin", "promote"])
def test_of_two_processes_at_once_exactly_one_wins(template: Path, place: Path, act: str) -> None:
    with children("race", place, 2) as racers:
        for number in range(8):
            folder = place / f"race-{act}-{number}"
            shutil.copytree(template, folder)
            with opened(folder) as database:
                wanted = [r.id for r in Releases(database).list(SCOPE) if r.stage == "validated"]
                if act == "promote":
                    rollout = transitions(database).begin(SCOPE, wanted[0], principal="me", reason="r")
                    for _ in range(2):
                        transitions(database).advance(SCOPE, rollout.id, principal="me", reason="r")
                    wanted = [rollout.id] * 2
            for racer, what in zip(racers, wanted, strict=True):
                racer.say(f"{folder.name} {what}")
                assert racer.hear() == "ready"
            for racer in racers:
                racer.say()
            heard = sorted(racer.hear() for racer in racers)
            assert heard[1] == "won"
            assert heard[0].startswith("lost")
            assert ("promoted" if act == "promote" else "under way") in heard[0]
            assert inconsistencies(folder) == []
            with opened(folder) as database:
                assert len(Rollouts(database).list(SCOPE)) == 1
