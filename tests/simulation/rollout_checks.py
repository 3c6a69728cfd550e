"""Invariants of rollouts, their releases' stages, the live pointer and the audit, of every committed state."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
from tests.simulation.process import Process, Violation
from tests.simulation.world import World

_ENDED = ("promoted", "rolled_back", "aborted")


class RolloutObserver:
    """Holds what is committed against what a rollout may be and become."""

    def __init__(self, world: World) -> None:
        self._database = world.connection()
        self._moves: dict[str, list[tuple[Any, ...]]] = {}
        self._pointers: list[tuple[Any, ...]] = []
        world.observers.append(self)
        self(world.processes[0])

    def __call__(self, process: Process) -> None:
        rollouts = self._rows("SELECT id, state, step, held, candidate, control, plan, ended_at, reason FROM rollouts")
        moves: dict[str, list[tuple[Any, ...]]] = {}
        for rollout, *move in self._rows(
            "SELECT rollout, sequence, state, step, held, reason, principal FROM rollout_moves ORDER BY 1, 2"
        ):
            moves.setdefault(rollout, []).append(tuple(move))
        pointers = self._rows("SELECT sequence, release, action, reason FROM release_pointers ORDER BY sequence")
        stages: dict[str, str] = dict(
            self._rows("SELECT release, stage FROM release_stages ORDER BY release, sequence")
        )
        past, self._moves = self._moves, moves
        past_pointers, self._pointers = self._pointers, pointers
        for rollout, known in past.items():
            _require(moves.get(rollout, [])[: len(known)] == known, f"a move of {rollout} changed or is gone")
        _require(pointers[: len(past_pointers)] == past_pointers, "a move of the live pointer changed or is gone")
        for number, pointer in enumerate(pointers, 1):
            _require(pointer[0] == number, f"the pointer's move {number} has number {pointer[0]}")
        live = pointers[-1][1] if pointers else None
        _require(live is None or stages[live] == "live", f"the live release {live} is {stages.get(live or '')}")
        active = [row for row in rollouts if row[7] is None]
        _require(len(active) <= 1, f"{len(active)} rollouts are under way")
        for row in rollouts:
            self._check_rollout(row, moves.get(row[0], []), stages, live)
        self._check_judgements(moves)
        self._check_audit(moves, pointers)

    def _check_rollout(self, row: tuple[Any, ...], moves: list[Any], stages: dict[str, str], live: str | None) -> None:
        rollout, state, step, held, candidate, control, plan, ended, reason = row
        _require(
            bool(moves) and moves[-1][1:5] == (state, step, held, reason), f"{rollout} is not as its last move left it"
        )
        _require((state in _ENDED) == (ended is not None), f"{rollout} is {state} and ended at {ended}")
        canary = len(msgspec.json.decode(plan)["canary"])
        shadow = msgspec.json.decode(plan).get("shadow", 0) > 0
        first = ("shadow", 0) if shadow else ("canary", 0)
        _require(moves[0][:3] == (1, *first), f"{rollout} began as {moves[0]}")
        for before, after in pairwise(moves):
            _require(after[0] == before[0] + 1, f"{rollout} has a gap in its moves after {before[0]}")
            _require(_legal(before[1:4], after[1:4], canary), f"{rollout} went from {before[1:4]} to {after[1:4]}")
        if ended is None:
            _require(live == control, f"{rollout} is {state}, its control {control} is not live")
            _require(stages[candidate] == state, f"{rollout} is {state}, its candidate is {stages[candidate]}")
        if state == "promoted":
            found = [pointer for pointer in self._pointers if pointer[1] == candidate and pointer[3] == reason]
            _require(len(found) == 1, f"{rollout} is promoted, and the pointer moved {len(found)} times for it")

    def _check_judgements(self, moves: dict[str, list[Any]]) -> None:
        documents = [msgspec.json.decode(row[0]) for row in self._rows("SELECT document FROM judgements")]
        decided = {one["sentence"]: one["rollout"] for one in documents if one["decision"] != "hold"}
        judged = [(rollout, move) for rollout, known in moves.items() for move in known if move[5] == "judge"]
        # Without its control a rollout is aborted, which nobody has to judge.
        carried = {move[4]: rollout for rollout, move in judged if move[1] != "aborted"}
        for sentence, rollout in carried.items():
            _require(decided.get(sentence) == rollout, f"{rollout} was moved by {sentence}, which is not recorded")
        held = {rollout for rollout, known in moves.items() if any(move[3] for move in known)}
        for sentence, rollout in decided.items():
            # A held rollout is judged and not moved.
            _require(
                sentence in carried or rollout in held, f"{sentence} about {rollout} is recorded and moved nothing"
            )

    def _check_audit(self, moves: dict[str, list[Any]], pointers: list[tuple[Any, ...]]) -> None:
        records = Counter(
            row[0] for row in self._rows("SELECT subject FROM audit_entries WHERE action LIKE 'rollout.%'")
        )
        for rollout, known in moves.items():
            _require(records[rollout] == len(known), f"{rollout} has {len(known)} moves and {records[rollout]} records")
        acted = self._rows(
            "SELECT count(*) FROM audit_entries WHERE action IN ('release.activate', 'release.rollback')"
        )[0][0]
        promoted = sum(move[1] == "promoted" for known in moves.values() for move in known)
        _require(acted >= len(pointers) - promoted, f"the pointer moved {len(pointers)} times, {acted} are recorded")

    def check_end(self, told: dict[str, str]) -> None:
        """Every act that was acknowledged is there."""
        reasons = {move[4] for known in self._moves.values() for move in known}
        reasons |= {pointer[3] for pointer in self._pointers}
        for reason, name in told.items():
            there = any(reason in one for one in reasons)
            _require(there, f"{name} ({reason}) was acknowledged and is not there")

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self._database.execute(statement).fetchall()


def _legal(before: tuple[str, int, bool], after: tuple[str, int, bool], canary: int) -> bool:
    """Whether a rollout may go from one position (state, step, held) to another."""
    state, step, held = before
    if state in _ENDED:
        return False
    if after[0] in ("rolled_back", "aborted"):
        return after[1] == step
    if after[:2] == (state, step):
        return after[2] != held
    if held or after[2]:
        return False
    if state == "shadow":
        return after[:2] == ("canary", 0)
    return after[:2] == (("canary", step + 1) if step + 1 < canary else ("promoted", step))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)
