"""``antiphon explain`` and ``antiphon replay``: a prediction and all that it was made from, and its text made again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.outline import outline
from antiphon.cli.output import short_fingerprint, shortened, show, table
from antiphon.cli.project import at_terminal, refusals_on_record, services

_MOST_FEATURES = 20
_LONGEST = 400

Prediction = Annotated[str, typer.Argument(metavar="PREDICTION", help="Its id, pred_….")]


def explain(
    prediction: Prediction,
    full: Annotated[bool, typer.Option("--full", help="Everything, down to prompts and source rows.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Show the inputs of one prediction on one screen; --full and --json have everything."""

    async def found() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            reader = at_terminal(store)
            with refusals_on_record(store, reader, "read", f"prediction/{prediction}"):
                receipt = ports.access.records.require_prediction(store.scope, reader, prediction)
            rows = full or as_json  # the short form shows none
            source_rows = rows and ports.access.records.may_read_source_rows(store.scope, reader, receipt)
            store.trail.record(store.scope, reader.id, "data.read", prediction, {"route": "antiphon explain"})
            return await asyncio.to_thread(ports.predictions.explain, store.scope, prediction, source_rows)

    explained = asyncio.run(found())
    show(explained, as_json, lambda: outline(explained) if full else brief(explained))


def replay(prediction: Prediction, project: Project = HERE, as_json: Json = False) -> None:
    """Make a prediction's text again and compare; leaves with 1 when it differs."""

    async def made() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            reader = at_terminal(store)
            with refusals_on_record(store, reader, "answer", f"prediction/{prediction}"):
                ports.access.records.require_replay(store.scope, reader, prediction)
            store.trail.record(store.scope, reader.id, "data.read", prediction, {"route": "antiphon replay"})
            return await ports.predictions.replay(store.scope, prediction)

    replayed = asyncio.run(made())
    show(replayed, as_json, lambda: outline(replayed))
    if replayed.get("identical") is False:
        raise typer.Exit(1)


def brief(explained: Mapping[str, Any]) -> str:
    """The answer, its features, and what decided about them, a line each."""
    lines = [f"{name:<9} {value}" for name, value in _lines(explained) if value]
    features = explained["features"]
    if features:
        lines += ["", _features(features)]
        if len(features) > _MOST_FEATURES:
            lines.append(f"… {len(features)} features")
    lines += ["", f"`antiphon explain {explained['prediction']} --full` shows prompts, source rows and all else."]
    return "\n".join(lines)


def _lines(explained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    caller, release, cache = explained["asked_by"], explained["release"], explained["cache"]
    usage, timing, cost = explained["usage"], explained["timing"], explained["cost"]
    stands_in = explained["fallback"] or explained["degraded"]
    yield "answer", _shortened(explained["answer"])
    yield "origin", _origin(explained, cache)
    yield "instead", "" if not stands_in else ", ".join(f"{name} {value}" for name, value in stands_in.items() if value)
    yield "question", _shortened(explained["question"]) if explained["question"] is not None else ""
    yield "entity", _pairs(explained["entity"])
    yield "inputs", _shortened(explained["inputs"]) if explained["inputs"] is not None else ""
    yield "turn", _turn(explained["conversation"]) if explained.get("conversation") else ""
    yield "tools", ", ".join(f"{one['name']} {one['status']}" for one in explained.get("tools", ()))
    yield "hints", _shortened(explained["hints"]) if explained["hints"] is not None else ""
    originator = caller["originating_user"]
    yield "asked by", f"{caller['principal']}{f' for {originator}' if originator else ''}, as of {explained['as_of']}"
    number = "" if release.get("implicit") else f" {release['number']}"
    yield "release", f"{release['application']}{number}, {release['id']} ({explained['role']}, {explained['path']})"
    yield "model", _model(explained)
    yield "policy", f"{explained['policy']['decision']} by {', '.join(explained['policy']['policies']) or 'default'}"
    yield "retrieved", "; ".join(_retrieval(one) for one in explained.get("retrievals", ()))
    yield "guards", ", ".join(_guard(guard) for guard in explained["guards"])
    yield (
        "took",
        f"{usage['prompt_tokens']:,} tokens read ({usage['cached_prompt_tokens']:,} cached), "
        f"{usage['completion_tokens']:,} written, {timing['total']:.2f} s, {cost['amount']:.2g} {cost['currency']}",
    )


def _turn(conversation: Mapping[str, Any]) -> str:
    """The place in its conversation, and what of it the prompt showed."""
    forms = Counter(turn["form"] for turn in conversation["turns"])
    shown = ", ".join(f"{count} {form}" for form, count in forms.items()) or "no earlier turns"
    after = f" after {conversation['previous']}" if conversation["previous"] else ""
    return f"{conversation['turn']} of {conversation['id'] or 'no kept conversation'}{after}: {shown}"


def _origin(explained: Mapping[str, Any], cache: Mapping[str, Any]) -> str:
    of = f" as {cache['prediction']}" if cache["prediction"] else ""
    return f"{cache['origin']}{of}, ended by {explained['finish_reason']}"


def _model(explained: Mapping[str, Any]) -> str:
    generations = explained["generations"]
    if not generations:
        return str(explained["release"]["model"]["name"])
    last = generations[-1]
    tried = f", {len(generations)} attempts" if len(generations) > 1 else ""
    fingerprint = short_fingerprint(last["model"], last["fingerprint"])
    decoding = f"temperature {last['temperature']:g}, seed {last['seed']}"
    return f"{last['model']}, {decoding}, fingerprint {fingerprint}{tried}"


def _retrieval(retrieval: Mapping[str, Any]) -> str:
    chunks = ", ".join(one["id"] for one in retrieval["passages"]) or "nothing"
    return f"{chunks} of {retrieval['view']} (publication {retrieval['publication']}, {retrieval['contract']})"


def _guard(guard: Mapping[str, Any]) -> str:
    reason = f" ({guard['reason']})" if guard["reason"] else ""
    return f"{guard['guard']} {guard['action']}{reason}"


def _features(features: Sequence[Mapping[str, Any]]) -> str:
    from antiphon.gateway.dashboard.wording import duration

    head = ("feature", "value", "printed", "age", "contract", "snapshot")
    rows = [
        (
            feature["name"],
            feature["value"],
            feature["printed"],
            None if feature["age_seconds"] is None else duration(feature["age_seconds"]),
            feature["contract"],
            (feature["snapshot"] or {}).get("id"),
        )
        for feature in features[:_MOST_FEATURES]
    ]
    return table(head, rows)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _shortened(text: Any) -> str:
    return "(erased)" if text is None else shortened(text, _LONGEST)
