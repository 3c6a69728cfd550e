"""``antiphon prompts``: versions and their requests, trials on production requests, comparison, annotation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import typer

from antiphon.cli import annotation, optimize
from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Application, Json, Limit, OnlyApplication, Project
from antiphon.cli.output import Progress, note, shortened, show, table
from antiphon.cli.project import at_terminal, require_application, stores
from antiphon.cli.regressions import JsonLines, workbench_of
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.catalog.learning.trials import Trial
    from antiphon.learning.workbench.comparison import Comparison, FigureDifference
    from antiphon.learning.workbench.trials import SampleQuery
    from antiphon.services.learning.workbench import PreferenceCounts, PromptVersion
    from antiphon.services.project.store import Store

app = typer.Typer(name="prompts", help="Prompt versions, trials, comparison and annotation.", no_args_is_help=True)
app.command("annotate")(annotation.annotate)
app.command("annotations")(annotation.list_annotations)
app.command("agreement")(annotation.agreement)
app.command("prefer")(annotation.prefer)
app.command("optimize")(optimize.optimize)
app.command("optimization")(optimize.optimization)

_LONGEST = 60


@app.command("list")
def list_versions(application: OnlyApplication = "", project: Project = HERE, as_json: Json = False) -> None:
    """Prompt versions of releases, with the requests that users were answered with them."""
    with stores(project) as store:
        workbench = workbench_of(store)
        names = sorted({one.bundle.application.name for one in store.releases.list(store.scope, application or None)})
        found = [version for name in names for version in workbench.versions(store.scope, name)]
        if not found:
            require_application(store, application or None)
    rows = [
        (one.application, one.version, "live" if one.live else "", len(one.releases), one.requests, one.latest,
         shortened(one.prompt.template, _LONGEST))
        for one in found
    ]  # fmt: skip
    head = ("application", "prompt", "", "releases", "requests", "latest", "template")
    show(found, as_json, lambda: table(head, rows, "No release yet: `antiphon apply` makes them."))


@app.command("show")
def show_version(
    name: Annotated[str, typer.Argument(help="A prompt version, or a prediction that was made with one.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """One prompt version: its texts, its releases; of a prediction the version that it was made with."""
    with stores(project) as store:
        found = _version(store, name)
    show(found, as_json, lambda: _version_text(found))


@app.command("requests")
def list_requests(
    version: Annotated[str, typer.Argument(help="A prompt version, or a prediction that was made with one.")],
    limit: Limit = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Requests that users were answered with a prompt, latest first."""
    with stores(project) as store:
        found = _version(store, version)
        receipts = workbench_of(store).requests(store.scope, found, limit=limit)
    lines = [
        {
            "prediction": one.prediction,
            "release": one.release,
            "path": one.path,
            "created_at": one.created_at,
            "guards": [guard.action for guard in one.guards],
        }
        for one in receipts
    ]
    rows = [(*list(line.values())[:4], ", ".join(cast(list[str], line["guards"]))) for line in lines]
    show(lines, as_json, lambda: table(("prediction", "release", "path", "created", "guards"), rows))


@app.command("try")
def try_prompt(
    application: Application,
    release: Annotated[str, typer.Option("--release", help="A release, of any stage; by default the live one.")] = "",
    draft: Annotated[bool, typer.Option("--draft", help="Try definitions.py as it is in the folder now.")] = False,
    template: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="Try this template in the prompt's place.")
    ] = None,
    system: Annotated[
        Path | None, typer.Option("--system", metavar="FILE", help="Try this system text in the prompt's place.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=1000, help="Production requests to try it on.")] = 20,
    seed: Annotated[int, typer.Option(help="Which requests are drawn.")] = 0,
    since: Annotated[str, typer.Option(metavar="TIME", help="Requests answered from then on.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Requests answered before then.")] = "",
    path: Annotated[str, typer.Option(help="online or batch; both by default.")] = "",
    of: Annotated[str, typer.Option("--of", metavar="RELEASE", help="Requests that this release answered.")] = "",
    same_as: Annotated[str, typer.Option("--same-as", metavar="TRIAL", help="The requests of another trial.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes; ask nothing.")] = False,
    as_lines: JsonLines = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Answer sampled production requests with a release or a draft, with the features of then, as production would;
    nothing live changes. Interrupted, it goes on where it stopped."""
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.drafts import draft_of, prompt_text
    from antiphon.services.learning.prompt_trials import trial_runner

    texts_of = {name: prompt_text(path) for name, path in (("template", template), ("system", system)) if path}

    async def made() -> tuple[Any, list[str], dict[str, Any]]:
        async with open_learning(project) as (learning, store):
            await asyncio.to_thread(require_application, store, application)
            candidate, notes = await asyncio.to_thread(
                lambda: draft_of(
                    store,
                    application,
                    release=release or None,
                    declared=draft,
                    template=texts_of.get("template"),
                    system=texts_of.get("system"),
                )
            )
            query = await asyncio.to_thread(_query, store, sample, seed, (since, until), path, of, same_as)
            runner = trial_runner(store, learning.recorded, learning.evaluators.scorer)
            if dry_run:
                estimate = await asyncio.to_thread(runner.estimate, store.scope, application, query)
                return _estimated(store, candidate.id, estimate), notes, {}
            await learning.serve(candidate)
            with Progress() as progress:
                trial = await runner.run(candidate, query, author=at_terminal(store).id, progress=progress)
            workbench = workbench_of(store)
            compared = await asyncio.to_thread(workbench.comparison, store.scope, trial.id)
            texts = await asyncio.to_thread(
                workbench.texts, store.scope, [one.draft.prediction for one in trial.answers] if as_lines else []
            )
            return (trial, compared), notes, texts

    found, notes, texts = asyncio.run(made())
    for said in notes:
        note(said)
    if dry_run:
        show(found, as_json, lambda: _estimate_text(found))
        return
    trial, compared = found
    if as_lines:
        for one in trial.answers:
            line = msgspec.to_builtins(one) | {"trial": trial.id, "text": texts.get(one.draft.prediction)}
            typer.echo(msgspec.json.encode(line).decode())
        return
    value = msgspec.to_builtins(trial) | {"comparison": msgspec.to_builtins(compared)}
    show(
        value,
        as_json,
        lambda: f"{_trial_text(trial)}\n{comparison_text(compared)}",
        f"`antiphon prompts compare {trial.id} --texts` shows the texts side by side.",
    )


@app.command("trials")
def list_trials(
    application: OnlyApplication = "", limit: Limit = 20, project: Project = HERE, as_json: Json = False
) -> None:
    """Trials, latest first."""
    with stores(project) as store:
        found = store.trials.list(store.scope, application or None, limit=limit)
        if not found:
            require_application(store, application or None)
    lines = [
        {
            "trial": one.id,
            "application": one.application,
            "release": one.release,
            "prompt": one.prompt,
            "requests": len(one.answers),
            "identical": one.identical,
            "author": one.author,
            "created_at": one.created_at,
        }
        for one in found
    ]
    head = ("trial", "application", "release", "prompt", "requests", "as live", "author", "created")
    show(lines, as_json, lambda: table(head, [list(line.values()) for line in lines], "No trial yet."))


@app.command("compare")
def compare(
    first: Annotated[str, typer.Argument(help="A trial, a release (its newest trial), or live.")],
    second: Annotated[str, typer.Argument(help="Another; by default the first is compared with live.")] = "",
    texts: Annotated[bool, typer.Option("--texts", help="Also the texts that differ, word by word.")] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="JSON Lines of texts left and right, without saying which is which.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compare two trials, or one with what users got, on the requests that both answered."""
    from antiphon.learning.workbench.comparison import shown_first, text_difference

    with stores(project) as store:
        workbench = workbench_of(store)
        found = workbench.comparison(store.scope, first, second or None)
        preferred = workbench.preferences(store.scope, found)
        read = texts or blind
        known = workbench.texts(
            store.scope, [one for pair in found.pairs for one in (pair.first, pair.second)] if read else []
        )
    sides = [
        (pair.request, known.get(pair.first or ""), known.get(pair.second or ""))
        for pair in found.pairs
        if pair.first is not None and pair.second is not None
    ]
    if blind:
        for request, one, other in sides:
            if one != other:
                left, right = (one, other) if shown_first(request, found.first, found.second) else (other, one)
                typer.echo(msgspec.json.encode({"request": request, "left": left, "right": right}).decode())
        return

    def text() -> str:
        said = [comparison_text(found), _preferred(found, preferred)]
        for request, one, other in sides if texts else ():
            if one is not None and other is not None and one != other:
                said.append(f"\n{request}\n  {_marked(text_difference(one, other))}")
        return "\n".join(part for part in said if part)

    value = msgspec.to_builtins(found) | {"preferences": msgspec.to_builtins(preferred)}
    if texts:
        value["texts"] = [{"request": request, "first": one, "second": other} for request, one, other in sides]
    show(value, as_json, text)


def comparison_text(found: Comparison) -> str:
    """A comparison for people."""
    first = f"{found.first} and {found.second} on {found.requests} requests, {found.identical} texts identical"
    errors = "".join(
        f"\n{name}: {count} without an answer ({code})"
        for name, codes in found.errors.items()
        for code, count in codes.items()
    )
    parts = [first + errors]
    if found.figures:
        parts.append(_figures(found, found.figures))
    if found.metrics:
        parts.append(_metrics(found))
    if found.changes:
        rows = [(one.field, shortened(one.before, _LONGEST), shortened(one.after, _LONGEST)) for one in found.changes]
        parts.append(table(("field", found.first, found.second), rows))
    if found.prompt:
        parts.append("\n".join(found.prompt))
    return "\n\n".join(parts)


def _metrics(found: Comparison) -> str:
    rows = [
        (one.name, one.requests, one.first, one.second, *_interval(one), one.better, one.unit, one.note)
        for one in found.metrics
    ]
    head = ("metric", "requests", found.first, found.second, "difference", "95 %", "surely better", "unit", "")
    return table(head, rows)


def _interval(one: FigureDifference) -> tuple[str, str]:
    gap = one.difference
    return ("-", "-") if gap is None else (f"{gap.value:+.4g}", f"{gap.low:+.4g} to {gap.high:+.4g}")


def _figures(found: Comparison, figures: tuple[FigureDifference, ...]) -> str:
    rows = [(one.name, one.first, one.second, *_interval(one), one.better, one.unit) for one in figures]
    return table(("figure", found.first, found.second, "difference", "95 %", "surely better", "unit"), rows)


def _preferred(found: Comparison, preferred: PreferenceCounts) -> str:
    if preferred.first + preferred.second + preferred.ties == 0:
        return ""
    return (
        f"Blind: {found.first} was preferred {preferred.first} times, {found.second} {preferred.second} times, "
        f"{preferred.ties} ties{_share(found, preferred)}."
    )


def _share(found: Comparison, preferred: PreferenceCounts) -> str:
    share = preferred.share
    return "" if share is None else f"; {found.second} in {share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _marked(pieces: tuple[tuple[str, str], ...]) -> str:
    marks = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    return "".join(marks[kind].format(piece) for kind, piece in pieces).replace("\n", "\n  ")


def _query(store: Store, size: int, seed: int, span: tuple[str, str], path: str, of: str, same_as: str) -> SampleQuery:
    from antiphon.learning.workbench.trials import SampleQuery

    if path not in ("", "online", "batch"):
        raise InvalidInputError(f"{path!r} is no path.", where="--path", next_step="Choose online or batch.")
    if same_as:
        other = store.trials.get(store.scope, same_as)
        return SampleQuery(predictions=tuple(one.request for one in other.answers))
    since, until = (entities.moment(text) for text in span)
    query = SampleQuery(size, seed, since, until, release=of or None)
    return query if not path else msgspec.structs.replace(query, path=path)


def _version(store: Store, name: str) -> PromptVersion:
    workbench = workbench_of(store)
    if not name.startswith("pred_"):
        return workbench.version(store.scope, name)
    receipt = store.receipts.get(store.scope, name)
    version = workbench.version_of(store.scope, receipt)
    if version is None:
        raise InvalidInputError(
            f"{name} is an answer of a plain model, which has no prompt of its own.",
            where=name,
            next_step=f"`antiphon explain {name}` shows what the model was sent.",
        )
    return workbench.version(store.scope, version, receipt.application)


def _version_text(found: PromptVersion) -> str:
    first = (
        f"{found.version} of {found.application}{', live' if found.live else ''}: {found.requests} requests, releases "
        f"{', '.join(found.releases)}"
    )
    examples = [f"\nuser: {user}\nassistant: {said}" for user, said in found.prompt.examples]
    return "\n".join([first, "", f"system: {found.prompt.system or '-'}", *examples, "", found.prompt.template])


def _estimated(store: Store, release: str, estimate: Any) -> dict[str, Any]:
    from antiphon.operations.cost.receipts import price

    prices = store.settings.prices
    value = msgspec.to_builtins(estimate)
    del value["usage"]
    return {"release": release, **value, "cost": price(estimate.usage, prices), "currency": prices.currency}


def _estimate_text(found: dict[str, Any]) -> str:
    gone = f" ({found['erased']} left out: their texts are erased)" if found["erased"] else ""
    return (
        f"{found['release']} would be tried on {found['requests']} requests{gone}. In production these took "
        f"{found['prompt_tokens']:,} prompt tokens, {found['completion_tokens']:,} completion tokens and "
        f"{found['engine_seconds']:.1f} s of the engine: {found['cost']:.4g} {found['currency']}. Nothing was asked."
    )


def _trial_text(trial: Trial) -> str:
    gone = f", {trial.erased} left out because their texts are erased" if trial.erased else ""
    return f"{trial.id}: {trial.release} on {len(trial.answers)} production requests ({trial.sample}{gone})"
