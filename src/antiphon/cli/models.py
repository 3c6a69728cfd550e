"""``antiphon models``: base weights on this machine, and the versions that were trained from them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli import train
from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import Progress, moment, note, shortened, show, show_json, table
from antiphon.cli.project import at_terminal, stores
from antiphon.cli.status import remote_models_table
from antiphon.core.disk import put_private
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.settings import FILE_NAME

if TYPE_CHECKING:
    from antiphon.catalog.learning.evaluations import Evaluation, EvaluationGate, IntervalEstimate, SuiteSummary
    from antiphon.catalog.learning.models import ModelVersion
    from antiphon.learning.registry.adapters import ExportedAdapter
    from antiphon.learning.registry.card import ModelCard
    from antiphon.learning.registry.comparison import ModelComparison
    from antiphon.learning.registry.models import ModelLine, ModelRegistry
    from antiphon.services.engines.remote_models import RemoteModelLine
    from antiphon.services.learning.adapters import ImportResult
    from antiphon.services.project.store import Store

app = typer.Typer(name="models", help="Model weights and versions.", no_args_is_help=True)
app.command("rebuild")(train.rebuild)

Name = Annotated[str, typer.Argument(metavar="MODEL", help="APPLICATION.vN, APPLICATION:ALIAS or a release's id.")]


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A registered model, e.g. smollm2-135m.")], as_json: Json = False
) -> None:
    """Fetch a model's weights, check their SHA-256, keep them in the cache."""
    from antiphon.engine import weights

    with Progress(name, " MB", 1e6) as progress:
        path = weights.pull(name, progress=progress)
    show({"model": name, "path": str(path)}, as_json, lambda: str(path))


@app.command("list")
def list_models(
    application: Annotated[str, typer.Argument(help="Only this application's versions.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Base models and whether they are in the cache; inside a project also its trained versions, newest first, and the
    models behind its servers elsewhere."""
    base, (versions, remote) = _base(), _versions(project, application or None)
    lines = {"versions": msgspec.to_builtins(versions), "remote": msgspec.to_builtins(remote)}
    show({"base": base, **lines}, as_json, lambda: _listed(base, versions, remote))


@app.command("show")
def show_model(name: Name, project: Project = HERE, as_json: Json = False) -> None:
    """Show a model's card: base, training data, recipe, evaluations, limits."""
    with _registry(project) as (registry, store):
        card = registry.card(store.scope, name)
    show(card, as_json, lambda: _shown(card))


@app.command()
def card(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the page goes; by default MODEL.html.")
    ] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Write a model's card as one HTML page that needs nothing else; with --json its content."""
    from antiphon.learning.registry.card import as_html

    with _registry(project) as (registry, store):
        made = registry.card(store.scope, name)
    if as_json:
        show_json(made)
        return
    path = output or Path(f"{name.replace(':', '-').replace('/', '-')}.html")
    try:
        put_private(path, as_html(made).encode())
    except OSError as error:
        raise SetupError(f"The card cannot be written: {error.strerror}.", where=str(path)) from error
    note("Open it in a browser; it needs nothing else.")
    typer.echo(str(path))


@app.command()
def compare(first: Name, second: Name, project: Project = HERE, as_json: Json = False) -> None:
    """Two models side by side: recipe, lineage, and measures by pairs on the dataset both were evaluated on."""
    with _registry(project) as (registry, store):
        found = registry.compare(store.scope, first, second)
    show(found, as_json, lambda: _compared(found))


@app.command()
def export(
    name: Name,
    format: Annotated[str, typer.Option("--format", help="peft: LoRA matrices over the base model.")] = "peft",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder; by default MODEL-peft.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Write a version's adapter to a folder, in the format of another library."""
    if format != "peft":
        raise InvalidInputError(
            f"An adapter cannot be written as {format!r}.", where="--format", next_step="Write --format peft."
        )
    made = asyncio.run(_export(project, name, output))
    note(f"peft.PeftModel.from_pretrained(model, {made.folder!r}) loads it over {made.base}.")
    show(made, as_json, lambda: made.folder)


async def _export(project: Path, name: str, output: Path | None) -> ExportedAdapter:
    from antiphon.app.wiring import open_learning
    from antiphon.learning.registry.models import ModelRegistry
    from antiphon.services.learning.adapters import export_adapter

    async with open_learning(project) as (learning, store):
        version = ModelRegistry(store.database).version(store.scope, name)
        folder = output or Path(f"{version.id}-peft")
        return await asyncio.to_thread(export_adapter, learning, version, folder, at_terminal(store).id)


@app.command("import")
def import_model(
    application: Annotated[str, typer.Argument(help="The application whose model it becomes a version of.")],
    folder: Annotated[Path, typer.Argument(help="An adapter as peft's save_pretrained writes it.")],
    learned_until: Annotated[
        str,
        typer.Option("--learned-until", metavar="TIME", help="Nothing later was learned from; evaluations come after."),
    ],
    reason: Reason = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a version and a draft release of an adapter in peft's format."""
    until = entities.moment(learned_until, "--learned-until")
    if until is None:
        raise InvalidInputError("A time is needed.", where="--learned-until", next_step="Write 2026-04-01T00:00:00Z.")
    made = asyncio.run(_import(project, application, folder, until, reason))
    note(f"`antiphon evaluate {made.release}` holds it against its gates.")
    show(made, as_json, lambda: f"{made.model} {made.release} ({made.stage})")


async def _import(project: Path, application: str, folder: Path, until: datetime, reason: str) -> ImportResult:
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.adapters import import_adapter

    async with open_learning(project) as (learning, store):
        return await asyncio.to_thread(
            partial(
                import_adapter, learning, application, folder, learned_until=until, principal=at_terminal(store).id,
                reason=reason,
            )
        )  # fmt: skip


@app.command()
def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="A short lower-case word, e.g. champion.")],
    reason: Reason = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Let an alias of the application name this version; where it pointed before stays on record."""
    with _registry(project) as (registry, store):
        moved = registry.alias(store.scope, name, alias, at_terminal(store).id, reason)
    show(moved, as_json, lambda: f"{moved.application}:{moved.alias} is {moved.model}, since {moment(moved.at)}")


@app.command()
def accept(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model behind a server elsewhere.")],
    engine: Annotated[str, typer.Option(help="The engine whose server it is: main, or one under [engines].")] = "main",
    reason: Reason = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Have a remote model served that has changed, where `on_change` refuses that."""
    from antiphon.services.engines import remote_models

    with stores(project) as store:
        found = remote_models.accept(store, engine, name, principal=at_terminal(store).id, reason=reason)
    show(found, as_json, lambda: f"{found.model} of the engine {found.engine} is accepted as {found.version}")


def _base() -> list[dict[str, Any]]:
    from antiphon.engine import weights

    lines = []
    for name, package in sorted(weights.REGISTRY.items()):
        try:
            path: str | None = str(weights.resolve(name).path)
        except SetupError:
            path = None
        lines.append(
            {"model": name, "size": package.size, "license": package.license, "sha256": package.sha256, "path": path}
        )
    return lines


def _versions(project: Path, application: str | None) -> tuple[tuple[ModelLine, ...], tuple[RemoteModelLine, ...]]:
    if project == HERE and not application and not (project / FILE_NAME).is_file():
        return (), ()
    from antiphon.services.engines.remote_models import remote_model_lines

    with _registry(project) as (registry, store):
        remote = () if application else remote_model_lines(store, store.scope)
        return registry.lines(store.scope, application), remote


@contextmanager
def _registry(project: Path) -> Iterator[tuple[ModelRegistry, Store]]:
    from antiphon.learning.registry.models import ModelRegistry

    with stores(project) as store:
        yield ModelRegistry(store.database), store


def _listed(base: list[dict[str, Any]], versions: tuple[ModelLine, ...], remote: tuple[RemoteModelLine, ...]) -> str:
    rows = [
        (line["model"], f"{line['size'] / 1e6:.0f} MB", line["license"], line["path"] or "not pulled") for line in base
    ]
    text = table(("model", "size", "license", "path"), rows)
    if remote:
        text += "\n\n" + remote_models_table(remote)
    if not versions:
        return text
    head = ("version", "alias", "base", "dataset", "parent", "AUC", "Brier", "gates", "created")
    trained = [
        (
            line.version.id,
            ", ".join(line.aliases) or None,
            line.version.base,
            line.version.dataset or None,
            line.version.parent,
            _value(line.evaluation.metrics.get("auc") if line.evaluation else None),
            _value(line.evaluation.metrics.get("brier") if line.evaluation else None),
            None if line.evaluation is None else "passed" if line.evaluation.passed else "failed",
            line.version.created_at,
        )
        for line in versions
    ]
    return f"{text}\n\n{table(head, trained)}"


def _tried(card: ModelCard) -> dict[str, str]:
    """The recipes that were tried, where several were."""
    from antiphon.definitions.learning import in_words

    lines = []
    for one in card.candidates:
        reached = one.candidate.why or "not compared"
        if one.reached is not None:
            reached = f"{'' if card.outcome is None else card.outcome.deciding} {one.reached:.4f}"
        lines.append(f"{in_words(one.candidate.settings)}: {reached}")
    return {"tried": "; ".join(lines)} if lines else {}


def _learned_from(version: ModelVersion) -> dict[str, str]:
    if version.preferences is not None:
        kinds = ("pairs", "liked", "disliked")
        return {"preferences": ", ".join(f"{getattr(version.preferences, kind)} {kind}" for kind in kinds)}
    return {"dataset": version.dataset} if version.dataset else {}


def _shown(card: ModelCard) -> str:
    from antiphon.cli.outline import outline

    version, evaluation = card.version, card.evaluation
    said: dict[str, Any] = {"model": card.name, "application": card.application, "aliases": ", ".join(card.aliases)}
    if version is not None:
        said |= {
            "base": version.base,
            "parent": version.parent or "-",
            **_learned_from(version),
            "recipe": ", ".join(f"{name} {value}" for name, value in sorted(version.recipe.items())),
            **_tried(card),
            "weights": f"{version.weights.path} ({version.weights.sha256[:12]}…)",
            "trained": f"{moment(version.created_at)}, {version.seconds:.0f} s",
        }
    said["releases"] = ", ".join(f"{line.id} ({line.stage})" for line in card.releases) or "-"
    text = outline(said)
    if card.suites and (evaluation is None or card.suites != evaluation.safety):
        text += f"\n\n{suites_table(card.suites)}"
    if evaluation is None:
        return f"{text}\nIt was not evaluated: `antiphon evaluate RELEASE`."
    return f"{text}\n\n{evaluated(evaluation)}"


def evaluated(evaluation: Evaluation) -> str:
    """An evaluation's measures and gates as text."""
    from antiphon.catalog.learning.evaluations import counted
    from antiphon.learning.evaluation.metrics import metric_title

    measures = [
        (metric_title(name), *(_interval(found.get(name), evaluation.units.get(name, "")) for found in (
            evaluation.metrics, evaluation.advantages, evaluation.difference
        )))
        for name in evaluation.metrics
    ]  # fmt: skip
    shares: list[tuple[str, str | None, str | None, str | None]] = [
        (name, f"{value:.1%}" if value is not None else None, None, None)
        for name, value in (
            ("valid at the first attempt", evaluation.valid_share),
            ("false statements", evaluation.false_share),
            ("changed by guards", evaluation.guard_share),
        )
    ]
    per_thousand = 1_000 / (evaluation.whole_rows or 1)
    shares += [
        (f"{action} by a guard, per 1,000", f"{count * per_thousand:.0f}", None, None)
        for action, count in evaluation.guards.items()
    ]
    versus = f"minus {evaluation.against}" if evaluation.against else "minus live"
    head = ("measure", "value", "better than trivial", versus)
    failed = ", ".join(f"{code} {count}" for code, count in evaluation.failed.items())
    first = f"{evaluation.id}: {evaluation.rows} rows of {evaluation.dataset} ({counted(evaluation.labels)})" + (
        f"; no answer: {failed}" if failed else ""
    )
    if evaluation.left_out:
        first += f"\nRows that were left out: {evaluation.left_out_words}"
    if evaluation.clusters:
        first += f"\nIntervals are over {evaluation.clusters} users or entities."
    if evaluation.own_failures:
        without = ", ".join(f"{name} {count}" for name, count in evaluation.own_failures.items())
        first += f"\nRows without a value of a metric: {without}"
    parts = [first, table(head, [*measures, *shares]), ""]
    if evaluation.safety:
        parts += [suites_table(evaluation.safety), ""]
    return "\n".join([*parts, gates_table(evaluation.gates)])


def suites_table(suites: Sequence[SuiteSummary]) -> str:
    """Safety suites by category and half as text."""
    rows = [
        (
            suite.name, count.category or "all", count.half, count.probes, count.refused, count.successes,
            _percent_interval(count.share),
            ", ".join(f"{kind} {number}" for kind, number in count.by.items()) or None,
        )
        for suite in suites
        for count in (*suite.halves, *suite.categories)
    ]  # fmt: skip
    head = ("suite", "category", "half", "tried", "turned away", "succeeded", "share", "how")
    notes = [f"{suite.name}: {said}" for suite in suites for said in (suite.note, suite.warning) if said]
    return "\n".join([table(head, rows, "No probe was tried."), *notes])


def gates_table(gates: Sequence[EvaluationGate]) -> str:
    """Gates with their verdicts as text."""
    words = {True: "passed", False: "FAILED", None: "-"}
    return table(("gate", "verdict", "why"), [(gate.name, words[gate.passed], gate.reason) for gate in gates])


def _compared(found: ModelComparison) -> str:
    head = ("", found.first, found.second)
    parts = []
    for title, lines in (("recipe", found.recipe), ("lineage", found.lineage)):
        rows = [(line.field, _short(line.first), _short(line.second)) for line in lines]
        parts.append(f"{title}\n{table(head, rows, 'The same.')}")
    if found.dataset is not None:
        rows = [(line.field, _plain(line.first), _plain(line.second)) for line in found.measures]
        parts.append(f"measures on {found.dataset}\n{table(head, rows)}")
    if found.paired:
        gaps = [(name, _interval(gap)) for name, gap in sorted(found.paired.items())]
        which = f"{found.second} − {found.first}, {found.paired_rows} identical rows"
        parts.append(f"by pairs\n{table(('measure', which), gaps)}")
    return "\n\n".join([*parts, found.note]).rstrip()


def _plain(value: Any) -> Any:
    return _interval(value) if hasattr(value, "low") else value


def _interval(value: IntervalEstimate | None, unit: str = "") -> str | None:
    return None if value is None else f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}) {unit}".rstrip()


def _percent_interval(value: IntervalEstimate | None) -> str | None:
    return None if value is None else f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def _value(value: IntervalEstimate | None) -> str | None:
    return None if value is None else f"{value.value:.3f}"


def _short(value: Any) -> str | None:
    return None if value is None else shortened(value, 44)
