"""A rollout as the page shows it: its steps and how far each is, its judgements, its plots. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.catalog.releases.rollouts import UNDER_WAY, RolloutRecord
from antiphon.gateway.admin.rollouts import JudgementLine, RolloutDetail, RolloutLine
from antiphon.gateway.dashboard.plots import Plot, e_values


class Step(msgspec.Struct, frozen=True):
    """One step of the way: ``seen`` of ``needed`` units where it counts any."""

    name: str
    status: Literal["done", "current", "ended", "ahead"]
    seen: int | None = None
    needed: int | None = None
    note: str = ""


class RolloutView(msgspec.Struct, frozen=True):
    """One rollout as the page shows it; ``judgement`` is the latest.

    ``revision`` changes whenever the rollout was moved.
    """

    detail: RolloutDetail
    steps: tuple[Step, ...]
    judgement: JudgementLine | None
    recent: tuple[JudgementLine, ...]
    harm: Plot | None
    safe: Plot | None
    under_way: bool
    revision: str


def revision(rollout: RolloutRecord | RolloutLine | None) -> str:
    """Returns a rollout's state in one word that a page compares."""
    if rollout is None:
        return "none"
    return f"{rollout.id}.{rollout.state}.{rollout.step}.{'held' if rollout.held else 'going'}"


def view(detail: RolloutDetail) -> RolloutView:
    """The page's view of a rollout."""
    harm, safe = e_values(detail.judgements, detail.moves) or (None, None)
    return RolloutView(
        detail=detail,
        steps=_steps(detail),
        judgement=detail.judgements[-1] if detail.judgements else None,
        recent=detail.judgements[:-6:-1],
        harm=harm,
        safe=safe,
        under_way=detail.rollout.ended_at is None,
        revision=revision(detail.rollout),
    )


def _steps(detail: RolloutDetail) -> tuple[Step, ...]:
    rollout, plan = detail.rollout, detail.rollout.plan
    way = ["shadow"] if plan.shadow > 0 and plan.shadow_pairs > 0 else []
    way += [f"canary {share} %" for share in plan.canary]
    way.append("live")
    first_canary = len(way) - 1 - len(plan.canary)
    # Where it ended is what it was in last before the end.
    last = next((move for move in reversed(detail.moves) if move.state in UNDER_WAY), None)
    if rollout.state == "promoted" or last is None:
        reached = len(way) - 1
    else:
        reached = first_canary + last.step if last.state == "canary" else 0
    steps = []
    for number, name in enumerate(way):
        if number < reached or rollout.state == "promoted":
            steps.append(_step(name, "done", detail))
        elif number == reached:
            steps.append(_step(name, "ended" if rollout.state in ("rolled_back", "aborted") else "current", detail))
        else:
            steps.append(_step(name, "ahead", detail))
    return tuple(steps)


def _step(name: str, status: Literal["done", "current", "ended", "ahead"], detail: RolloutDetail) -> Step:
    plan, now = detail.rollout.plan, status in ("current", "ended")
    if name == "live":
        return Step(name, status, note="all users")
    if name == "shadow":
        known, note = detail.pairs.known, "pairs with an outcome"
        if plan.metric is not msgspec.UNSET:
            known, note = detail.pairs.pairs, f"pairs, by {plan.metric}"
        return Step(name, status, known if now else None, plan.shadow_pairs, note)
    seen = next((arm.step_units for arm in detail.arms if arm.arm == "canary"), 0)
    return Step(name, status, seen if now else None, plan.step_units, "canary users")
