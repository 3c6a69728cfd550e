"""``antiphon evaluations add | sets | run | cases | import | remove``: regression sets, and releases on them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli.options import HERE, Json, OnlyApplication, Project, Reason
from antiphon.cli.output import Progress, show, table
from antiphon.cli.project import allowed, at_terminal, stores
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError

if TYPE_CHECKING:
    from antiphon.catalog.learning.regressions import RegressionRun, SetVersion, Split
    from antiphon.services.learning.regressions import ProjectRegressions
    from antiphon.services.learning.workbench import Workbench
    from antiphon.services.project.store import Store

SetName = Annotated[str, typer.Argument(metavar="SET", help="The set's name, or NAME@VERSION.")]
SplitOption = Annotated[str, typer.Option("--split", metavar="SPLIT", help="visible or held-out.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="Print one JSON object a line.")]


class RegressionError(AntiphonError):
    """A case of a regression set fails."""

    code = "regressions_failed"


def workbench_of(store: Store) -> Workbench:
    """The project's workbench."""
    from antiphon.services.governance.policy_versions import records
    from antiphon.services.learning.workbench import Workbench

    return Workbench(store, records(store))


def add(
    prediction: Annotated[str, typer.Argument(help="The prediction whose request becomes a case.")],
    name: Annotated[str, typer.Option("--set", metavar="SET", help="The set; the first case begins it.")],
    label: Annotated[list[str], typer.Option(metavar="PROPERTY=VALUE", help="Expect this label.")] = [],  # noqa: B006
    contains: Annotated[list[str], typer.Option(metavar="TEXT", help="Expect this in the text.")] = [],  # noqa: B006
    lacks: Annotated[list[str], typer.Option(metavar="TEXT", help="Expect this not in the text.")] = [],  # noqa: B006
    text: Annotated[str, typer.Option(metavar="TEXT", help="Expect exactly this text.")] = "",
    not_this: Annotated[bool, typer.Option("--not-this", help="Expect anything but the text that was given.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Expect a first attempt that meets the schema.")] = False,
    guard: Annotated[list[str], typer.Option(metavar="NAME", help="Expect this guard to pass.")] = [],  # noqa: B006
    metric: Annotated[
        list[str], typer.Option(metavar="'NAME at least X'", help="Expect this of a metric; or: at most X.")
    ] = [],  # noqa: B006
    split: SplitOption = "visible",
    why: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why, kept with the case.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Turn a prediction into a regression case. Without an expectation the one is taken that its outcome or its
    annotations suggest: the label, the corrected text, or anything but a text with a thumb down."""
    from antiphon.catalog.learning.regressions import Expectation
    from antiphon.learning.workbench.expectations import in_words

    with stores(project) as store:
        who = at_terminal(store)
        expect = [Expectation("label", value, key) for key, value in map(_label, label)]
        expect += [Expectation("contains", one) for one in contains] + [Expectation("lacks", one) for one in lacks]
        expect += [Expectation("text", text)] if text else []
        expect += [Expectation("schema")] if schema else []
        expect += [Expectation("guard", one) for one in guard]
        expect += [Expectation("metric", bound, name) for name, _, bound in (one.partition(" ") for one in metric)]
        if not_this:
            served = workbench_of(store).texts(store.scope, [prediction])[prediction]
            expect += [Expectation("not_text", served or "")]
        version, case = _regressions(store).add_case(
            store.scope, who, prediction, name, expect, split=chosen_split(split) or "visible", note=why
        )
    said = "; ".join(in_words(one) for one in case.expect)
    show(
        {"case": case.id, "set": name, "version": version.version, "expect": msgspec.to_builtins(case.expect)},
        as_json,
        lambda: f"{case.id} is in {name}@{version.version}: expected is that {said}.",
    )


def sets(application: OnlyApplication = "", project: Project = HERE, as_json: Json = False) -> None:
    """Regression sets: cases by split in the newest version, and the latest run."""
    with stores(project) as store:
        found = [
            store.regressions.version(store.scope, name)
            for name in store.regressions.names(store.scope, application or None)
        ]
        latest = {one.name: store.regressions.runs(store.scope, one.name, limit=1) for one in found}
    lines = []
    for one in found:
        last = latest[one.name][0] if latest[one.name] else None
        lines.append(
            {
                "set": one.name,
                "version": one.version,
                "application": one.application,
                "visible": sum(split == "visible" for split in one.cases.values()),
                "held_out": sum(split == "held-out" for split in one.cases.values()),
                "latest_run": None if last is None else last.id,
                "passed": None if last is None else last.passed,
                "created_at": one.created_at,
            }
        )
    head = ("set", "version", "application", "visible", "held out", "latest run", "passed", "created")
    show(lines, as_json, lambda: table(head, [list(line.values()) for line in lines], "No regression set yet."))


def run(
    name: SetName,
    release: Annotated[str, typer.Argument(help="A release's id.")],
    split: SplitOption = "",
    as_lines: JsonLines = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Ask a release every case of a set and check what is expected; exits with an error when one fails. Interrupted,
    it goes on where it stopped."""
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.prompt_trials import regression_runner

    async def found() -> RegressionRun:
        async with open_learning(project) as (learning, store):
            version = await asyncio.to_thread(version_named, store, name)
            candidate = await asyncio.to_thread(store.releases.get, store.scope, release)
            await learning.serve(candidate)
            with Progress() as progress:
                return await regression_runner(store, learning.recorded, learning.evaluators.scorer).run(
                    candidate, version, split=chosen_split(split), author=at_terminal(store).id, progress=progress
                )

    made = asyncio.run(found())
    if as_lines:
        for one in made.results:
            typer.echo(msgspec.json.encode(one).decode())
    else:
        show(made, as_json, lambda: run_text(made))
    failed = sum(not one.passed for one in made.results)
    if failed:
        raise RegressionError(
            f"{failed} of {len(made.results)} cases of {made.regression_set}@{made.version} fail.",
            where=made.release,
            next_step=f"`antiphon evaluations show {made.id}` says which and why.",
        )


def cases(
    name: SetName, split: SplitOption = "", project: Project = HERE, as_json: Json = False, as_lines: JsonLines = False
) -> None:
    """The cases of a set: what is asked and expected; with --jsonl as a file that `import` reads."""
    from antiphon.learning.workbench.expectations import in_words

    with stores(project) as store:
        version = version_named(store, name)
        if as_lines:
            allowed(store, "export", f"application/{version.application}")
        found = store.regressions.cases(version, chosen_split(split))
        lines = _regressions(store).lines(version, chosen_split(split))
    if as_lines:
        for line in lines:
            typer.echo(msgspec.json.encode(line).decode())
        return
    rows = [
        (case, version.cases[case], "(erased)", "", "")
        if one is None
        else (case, version.cases[case], "; ".join(map(in_words, one.expect)), one.prediction, one.author)
        for case, one in found.items()
    ]
    shown = {"set": version.name, "version": version.version, "application": version.application, "cases": lines}
    show(shown, as_json, lambda: set_text(version, rows))


def import_cases(
    file: Annotated[Path, typer.Argument(help="JSON Lines, one case a line; - for standard input.")],
    name: Annotated[str, typer.Option("--set", metavar="SET", help="The set; the first case begins it.")],
    reason: Reason = "imported",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Add the cases of a file to a set, all of them or, when a line has a mistake, none. A case that is there already
    is not added again."""
    from antiphon.learning.workbench.regressions import read_lines

    content = read_input(file)
    lines = list(read_lines(content.splitlines(), str(file)))
    if dry_run:
        show({"cases": len(lines), "added": False}, as_json, lambda: f"{len(lines)} cases can be read.")
        return
    with stores(project) as store:
        version = _regressions(store).add_lines(store.scope, at_terminal(store), name, lines, reason)
    show(
        {"set": name, "version": version.version, "cases": len(version.cases)},
        as_json,
        lambda: f"{name}@{version.version} has {len(version.cases)} cases.",
    )


def remove(
    name: Annotated[str, typer.Argument(metavar="SET", help="The set's name.")],
    case: Annotated[str, typer.Argument(help="The case's id.")],
    reason: Reason = "",
    erase: Annotated[
        bool, typer.Option("--erase", help="Also delete what it holds, for earlier versions too.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Leave a case out of a set's next version."""
    if not reason:
        raise InvalidInputError("There is no reason.", where="--reason", next_step="Say why: it is kept.")
    with stores(project) as store:
        version = _regressions(store).remove_case(
            store.scope, at_terminal(store), name, case, reason=reason, erase=erase
        )
    show(
        {"set": name, "version": version.version, "cases": len(version.cases)},
        as_json,
        lambda: f"{name}@{version.version} has {len(version.cases)} cases.",
    )


def version_named(store: Store, name: str) -> SetVersion:
    """The version of a set that ``NAME`` or ``NAME@VERSION`` names."""
    base, _, number = name.partition("@")
    if number and not number.isdigit():
        raise InvalidInputError(f"{number!r} is no version.", where="SET", next_step="Write NAME@3, or NAME.")
    return store.regressions.version(store.scope, base, int(number) if number else None)


def chosen_split(text: str) -> Split | None:
    """A split as it is named; ``None`` for both."""
    if text in ("", "visible", "held-out"):
        return "visible" if text == "visible" else "held-out" if text else None
    raise InvalidInputError(f"{text!r} is no split.", where="--split", next_step="Name visible or held-out.")


def read_input(file: Path) -> bytes:
    """A file's content, or standard input's for ``-``."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}.", next_step="Name a file, or -.") from None


def run_text(made: RegressionRun) -> str:
    """A run for people."""
    failed = [one for one in made.results if not one.passed]
    first = (
        f"{made.id}: {made.release} on {made.regression_set}@{made.version}: "
        f"{len(made.results) - len(failed)} of {len(made.results)} cases passed"
    )
    rows = [(one.case, one.split, "; ".join(one.failed), one.prediction) for one in failed]
    return first + (f"\n\n{table(('case', 'split', 'why it fails', 'prediction'), rows)}" if rows else "")


def set_text(version: SetVersion, rows: list[tuple[Any, ...]]) -> str:
    """A set for people."""
    first = f"{version.name}@{version.version} of {version.application}: {len(version.cases)} cases ({version.reason})"
    return f"{first}\n\n{table(('case', 'split', 'expected', 'prediction', 'author'), rows)}"


def _regressions(store: Store) -> ProjectRegressions:
    from antiphon.services.learning.regressions import ProjectRegressions

    return ProjectRegressions(store, workbench_of(store))


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidInputError(f"{text!r} is no label.", where="--label", next_step="Write PROPERTY=VALUE.")
    return key, value
