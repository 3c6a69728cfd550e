"""``antiphon prompts annotate | annotations | agreement | prefer``: what people of the house say about predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli.options import HERE, Application, Json, Project
from antiphon.cli.output import shortened, show, table
from antiphon.cli.project import allowed, at_terminal, require_application, stores
from antiphon.cli.regressions import JsonLines, read_input, workbench_of
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.learning.workbench.agreement import Agreement

_SHOWN = ("question", "text")


def prefer(
    first: Annotated[str, typer.Argument(help="As it was compared.")],
    second: Annotated[str, typer.Argument(help="As it was compared.")],
    request: Annotated[str, typer.Argument(help="The request of a blind line.")],
    choice: Annotated[str, typer.Argument(help="left, right or tie.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Say which text of a blind line is better."""
    with stores(project) as store:
        workbench = workbench_of(store)
        shown = workbench.comparison(store.scope, first, second)
        made = workbench.prefer(store.scope, at_terminal(store), shown, request, choice)
    show(made, as_json, lambda: f"{made.id} is kept.")


def annotate(
    prediction: Annotated[str, typer.Argument(help="A prediction; or a file of JSON Lines, or -.")],
    thumbs: Annotated[str, typer.Option(metavar="up|down", help="Good or bad.")] = "",
    label: Annotated[str, typer.Option(metavar="PROPERTY=VALUE", help="The right label.")] = "",
    correction: Annotated[str, typer.Option(metavar="TEXT", help="The right text.")] = "",
    score: Annotated[str, typer.Option(metavar="CRITERION=1..5", help="A score of a rubric.")] = "",
    words: Annotated[str, typer.Option("--note", metavar="TEXT", help="In your words.")] = "",
    annotator: Annotated[str, typer.Option(metavar="NAME", help="Whose it is; yours by default.")] = "",
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete what was said about it, by --annotator or by all.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Annotate a prediction, or take the annotations of a file. What the same annotator had said is replaced."""
    from antiphon.learning.workbench.submission import AnnotationSubmission

    if erase:
        with stores(project) as store:
            gone = workbench_of(store).erase_annotations(store.scope, at_terminal(store), prediction, annotator or None)
        show({"erased": gone}, as_json, lambda: f"{gone} annotation(s) erased.")
        return
    sent: list[AnnotationSubmission] = []
    if prediction == "-" or Path(prediction).is_file():
        sent = _read_annotations(Path(prediction))
    else:
        if thumbs:
            sent.append(AnnotationSubmission(prediction, "thumbs", thumbs, note=words, annotator=annotator))
        if label:
            criterion, _, value = label.rpartition("=")
            sent.append(AnnotationSubmission(prediction, "label", value, criterion, note=words, annotator=annotator))
        if correction:
            sent.append(AnnotationSubmission(prediction, "correction", correction, note=words, annotator=annotator))
        if score:
            criterion, _, value = score.rpartition("=")
            sent.append(AnnotationSubmission(prediction, "rubric", value, criterion, note=words, annotator=annotator))
    if not sent:
        raise InvalidInputError(
            "Nothing is said about the prediction.",
            where=prediction,
            next_step="Give --thumbs, --label, --correction or --score, or a file of JSON Lines.",
        )
    with stores(project) as store:
        workbench, who = workbench_of(store), at_terminal(store)
        made = [workbench.annotate(store.scope, who, one) for one in sent]
    show(made, as_json, lambda: f"{len(made)} annotation(s) kept.")


def list_annotations(
    application: Application,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 1000,
    as_lines: JsonLines = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Annotations of an application, latest first; with --jsonl as a file that `annotate` reads."""
    with stores(project) as store:
        if as_lines:
            allowed(store, "export", f"application/{application}")
        found = store.annotations.list(store.scope, application, limit)
        if not found:
            require_application(store, application)
    if as_lines:
        for one in found:
            line = {
                "prediction": one.prediction, "kind": one.kind, "value": one.value, "criterion": one.criterion,
                "other": one.other, "note": one.note, "annotator": one.annotator,
            }  # fmt: skip
            typer.echo(msgspec.json.encode({name: value for name, value in line.items() if value}).decode())
        return
    rows = [
        (one.prediction, one.annotator, one.kind, one.criterion, shortened(one.value, 40), one.created_at)
        for one in found
    ]
    head = ("prediction", "annotator", "kind", "criterion", "value", "at")
    show(found, as_json, lambda: table(head, rows, "No annotation yet."))


def agreement(application: Application, project: Project = HERE, as_json: Json = False) -> None:
    """Agreement of annotators by pairs (Cohen's kappa), and what they contradict each other about."""
    with stores(project) as store:
        found = workbench_of(store).agreement(store.scope, application)
        if not found:
            require_application(store, application)
    show(found, as_json, lambda: _agreement_text(found))


def _read_annotations(file: Path) -> list[Any]:
    from antiphon.learning.workbench.submission import AnnotationSubmission

    sent = []
    for number, line in enumerate(read_input(file).splitlines(), 1):
        if line.strip():
            try:
                given = msgspec.json.decode(line, type=dict[str, Any])
                # What `antiphon evaluations answers` shows beside what is asked for.
                sent.append(msgspec.convert({k: v for k, v in given.items() if k not in _SHOWN}, AnnotationSubmission))
            except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
                raise InvalidInputError(
                    f"{error}.", where=f"{file}, line {number}", next_step="Mend the line; nothing was kept."
                ) from None
    return sent


def _agreement_text(found: tuple[Agreement, ...]) -> str:
    rows = [
        (one.kind, one.criterion, *one.annotators, one.predictions, one.same, one.kappa, len(one.contradictions))
        for one in found
    ]
    head = ("kind", "criterion", "annotator", "annotator", "predictions", "same", "kappa", "contradictions")
    text = table(head, rows, "No two annotators have annotated the same prediction.")
    lines = [
        (one.kind, one.criterion, each.prediction, f"{one.annotators[0]}: {shortened(each.first, 30)}",
         f"{one.annotators[1]}: {shortened(each.second, 30)}")
        for one in found for each in one.contradictions
    ]  # fmt: skip
    contradictions = table(("kind", "criterion", "prediction", "", ""), lines)
    return text + (f"\n\nContradictions:\n{contradictions}" if lines else "")
