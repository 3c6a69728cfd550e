"""``antiphon train``: from outcomes to a release that has shown what it learned, with live progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Probes, Project
from antiphon.cli.outline import outline
from antiphon.cli.output import followed, moment, note, show
from antiphon.cli.project import at_terminal, require_worker
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.definitions.learning import in_words

if TYPE_CHECKING:
    from antiphon.durable.run import Run
    from antiphon.learning.retraining.orders import TrainingPreview, TrainingRequest
    from antiphon.learning.retraining.preference_trainer import PreferencePreview
    from antiphon.services.learning.gate_orders import GateCheck


Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]
Key = Annotated[str, typer.Option(help="Orders with the same key are one run.")]


class TrainingError(AntiphonError):
    """The run ended without a result."""

    code = "training_failed"


def train(
    application: Annotated[str, typer.Argument(help="The application whose model is trained.")],
    delta: Annotated[bool, typer.Option("--delta", help="Only what is new, going on from the live version.")] = False,
    preferences: Annotated[
        bool,
        typer.Option("--preferences", help="Learn from thumbs, corrections and chosen answers instead."),
    ] = False,
    cutoff: Annotated[
        str, typer.Option("--cutoff", metavar="TIME", help="Nothing known later is learned from (default: declared).")
    ] = "",
    examples: Annotated[int, typer.Option(min=0, help="At most so many (default: declared).")] = 0,
    rows: Annotated[int, typer.Option(min=1, help="Rows that are evaluated.")] = 400,
    texts: Annotated[int, typer.Option(min=1, help="So many of them are asked for the whole output.")] = 100,
    probes: Probes = 0,
    candidates: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,…", help="Values of a setting to try, such as rank=8,16; again for another."),
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Training time that candidates share, such as 20m.")] = "",
    rollout: Annotated[bool, typer.Option("--rollout", help="Begin its rollout when it passes its gates.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, kept with the version and its release.")] = "",
    key: Key = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    wait: Wait = True,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Train, release as a draft, evaluate, hold against the gates. It survives a crash; Ctrl-C leaves it running."""
    from antiphon.learning.retraining.orders import TrainingRequest

    order = TrainingRequest(
        application=application,
        delta=delta,
        preferences=preferences,
        cutoff=entities.moment(cutoff, "--cutoff"),
        examples=examples or None,
        rows=rows,
        texts=texts,
        probes=probes or None,
        rollout=rollout,
        reason=reason,
        key=key or None,
        candidates=_candidates(candidates or ()),
        budget=budget or None,
    )
    if dry_run:
        foreseen = asyncio.run(_foresee(project, order))
        show(foreseen, as_json, lambda: _foreseen_text(foreseen))
        return
    _follow(project, order, wait, as_json, _tuned_text if preferences else _trained_text)


def rebuild(
    model: Annotated[str, typer.Argument(help="A model version, such as desk.v1.")],
    key: Key = "",
    wait: Wait = True,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Train a version again from the same things and compare the weights' hashes."""
    _follow(project, model, wait, as_json, _rebuilt_text, key or None)


def _candidates(given: Sequence[str]) -> dict[str, tuple[float, ...]] | None:
    """Settings to the values that are tried: ``rank=8,16`` is ``{"rank": (8.0, 16.0)}``."""
    found: dict[str, tuple[float, ...]] = {}
    for one in given:
        name, _, values = one.partition("=")
        try:
            found[name.strip()] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise InvalidInputError(
                f"{one!r} gives no values to try.",
                where="--candidates",
                next_step="Write a setting and numbers, such as learning_rate=1e-3,5e-4.",
            ) from None
    return found or None


def _follow(
    project: Path, order: TrainingRequest | str, wait: bool, as_json: bool, text: Any, key: str | None = None
) -> None:
    placed: list[str] = []
    try:
        run, check = asyncio.run(_place(project, order, wait, placed, key))
    except KeyboardInterrupt:
        if placed:
            note(f"\nThe run goes on: `antiphon runs show {placed[0]}`; `antiphon runs cancel {placed[0]}` ends it.")
        raise
    if wait and run.status != "succeeded":
        raise TrainingError(
            f"The run is {run.status}: {run.error or 'no reason was given'}",
            where=run.id,
            next_step="What is live is as it was. Mend the cause and order it again: it goes on from what there is.",
        )
    found: dict[str, Any] = {"run": run.id, "status": run.status, **(run.result or {})}
    if check is not None:
        found |= {"gates": check.state, "sentence": check.sentence, "rollout": check.rollout}
    show(found, as_json, lambda: text(found) if wait else f"{run.id} {run.status}")


async def _place(
    project: Path, order: TrainingRequest | str, wait: bool, placed: list[str], key: str | None
) -> tuple[Run, GateCheck | None]:
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.gate_orders import described_check

    async with open_learning(project) as (learning, store):
        if wait:
            require_worker(store, "train", "pass --no-wait")
        who = at_terminal(store)
        if isinstance(order, str):
            placed.append(await asyncio.to_thread(learning.orders.rebuild, store.scope, who.id, order, key))
        else:
            placed.append(await asyncio.to_thread(learning.orders.place, store.scope, who.id, order, who))
        run = await followed(store, placed[0], wait)
        checks = (run.result or {}).get("checks") if wait else None
        return run, None if checks is None else described_check(await followed(store, checks, wait))


async def _foresee(project: Path, order: TrainingRequest) -> TrainingPreview | PreferencePreview:
    from antiphon.app.wiring import open_learning

    async with open_learning(project) as (learning, store):
        return await asyncio.to_thread(learning.orders.foresee, store.scope, at_terminal(store).id, order)


def _foreseen_text(foreseen: TrainingPreview | PreferencePreview) -> str:
    from antiphon.learning.retraining.preference_trainer import PreferencePreview

    if isinstance(foreseen, PreferencePreview):
        said = foreseen.preferences
        outlined = {
            "application": foreseen.application,
            "goes on from": foreseen.parent or "the base model",
            "moments": f"from {moment(foreseen.judged_from)} to {moment(foreseen.judged_until)}",
            "preferences": _counted(msgspec.to_builtins(said)),
            "steps": f"{foreseen.steps} of {foreseen.batch} preferences",
        }
        return "\n".join([outline(outlined), *foreseen.problems])

    def line(survey: Any) -> str:
        labels = ", ".join(f"{count} {label}" for label, count in sorted(survey.labels.items())) or "no label"
        out = ", ".join(f"{count} {why}" for why, count in survey.dropped.items())
        return f"{survey.rows} ({labels})" + (f"; left out: {out}" if out else "")

    result: dict[str, Any] = {
        "application": foreseen.application,
        "goes on from": foreseen.parent or "the base model",
        "cutoff": foreseen.cutoff.isoformat(),
        "examples": line(foreseen.training),
        "earlier examples": foreseen.replayed,
        "evaluated on": line(foreseen.evaluation),
        "steps": f"{foreseen.steps} of {foreseen.batch} examples",
    }
    if foreseen.candidates:
        result["candidates"] = "; ".join(map(in_words, foreseen.candidates))
        result["chosen on"] = f"{foreseen.held_out} examples, the latest"
    return "\n".join([outline(result), *foreseen.problems])


def _trained_text(found: dict[str, Any]) -> str:
    result: dict[str, Any] = {
        "model": found["model"],
        "release": f"{found['release']} ({found['stage']})",
        "examples": ", ".join(f"{count} {kind}" for kind, count in found["examples"].items()),
        "trained for": f"{found['seconds']:.0f} s",
    }
    result |= {name: _measure(value) for name, value in found["metrics"].items()}
    forgetting = found.get("forgetting")
    if forgetting:
        result["old slice"] = ", ".join(
            f"{name} {_measure(forgetting['before'][name])} before, {_measure(forgetting['after'][name])} after"
            for name in forgetting["before"]
            if name in forgetting["after"]
        )
    lines = [
        outline(result),
        *_candidate_lines(found),
        *(f"Not passed: {reason}" for reason in found["reasons"]),
        *found["notices"],
    ]
    if found["rollout"]:
        lines.append(f"Its rollout has begun: `antiphon releases rollouts {found['application']}` shows it.")
    elif found["stage"] == "validated":
        lines.append(f"`antiphon releases rollout {found['release']}` sends it on its way. {found['no_rollout']}")
    return "\n".join(lines)


def _tuned_text(found: dict[str, Any]) -> str:
    result = {
        "model": found["model"],
        "release": f"{found['release']} ({found['stage']})",
        "preferences": _counted(found["preferences"]),
        "trained for": f"{found['seconds']:.0f} s",
    }
    lines = [outline(result), *found["notices"]]
    if "gates" in found:
        lines.append(f"Its gates: {found['sentence']}")
    elif not found["checks"]:
        lines.append(f"It was trained from exactly this before; its release is {found['stage']}.")
    return "\n".join(lines)


def _counted(learned: dict[str, Any]) -> str:
    kinds = ", ".join(f"{learned[kind]} {kind}" for kind in ("pairs", "liked", "disliked"))
    out = ", ".join(f"{count} {why}" for why, count in learned["dropped"].items())
    return f"{kinds}; left out: {out}" if out else kinds


def _candidate_lines(found: dict[str, Any]) -> list[str]:
    """The recipes that were tried, with what each reached on held-out examples."""
    lines = []
    for one in found.get("candidates", ()):
        scores = {name: value for name, value in one.items() if name not in ("settings", "model", "seconds", "why")}
        reached = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
        said = reached or one["why"]
        going_on = " (goes on)" if one["model"] == found["model"] else ""
        lines.append(f"Tried {in_words(one['settings'])}: {one['seconds']:.0f} s, {said}{going_on}")
    return lines


def _rebuilt_text(found: dict[str, Any]) -> str:
    if found["equal"]:
        words = f"{found['model']} came out the same, to the byte ({found['weights_sha256'][:16]}…)."
    elif found["weights_sha256"] is None:
        words = f"{found['model']} was not trained again."
    else:
        words = (
            f"{found['model']} came out otherwise: {found['weights_sha256'][:16]}… instead of "
            f"{found['registered_sha256'][:16]}…."
        )
    lines = [words, *(f"Differs: {difference}" for difference in found["differences"])]
    return "\n".join([*lines, *(f"Restored: {file}" for file in found["restored"])])


def _measure(measure: dict[str, float]) -> str:
    return f"{measure['value']:.4f} [{measure['low']:.4f}, {measure['high']:.4f}]"
