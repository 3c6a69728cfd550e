"""``antiphon up``: the whole platform on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, note
from antiphon.core import disk
from antiphon.core.errors import AntiphonError, SetupError
from antiphon.core.tls import gateway_url

if TYPE_CHECKING:
    from antiphon.operations.supervisor import ProcessEvent
    from antiphon.services.project.store import Store

_POLL = 0.2
_PUBLISH_SECONDS = 10.0
"""Time that the schedule may take to order what is due."""


def up(
    project: Project = HERE,
    apply: Annotated[
        bool, typer.Option("--apply/--no-apply", help="Apply the definitions when nothing is applied yet.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run engine, gateway and worker; restart what dies; Ctrl-C drains them, a second Ctrl-C kills them."""
    from antiphon.services.moving.following import open_following

    store = open_following(project, "worker")
    try:
        if store.protection.warning:
            note(store.protection.warning)
        _prepare(store, apply)
        asyncio.run(_run(store, as_json))
    finally:
        store.close()


def _prepare(store: Store, apply: bool) -> None:
    """Make what a first start needs, before anything runs: the model, a key, the definitions."""
    from antiphon.gateway.http.transport_security import require_protection, tls_files
    from antiphon.operations.listening import require_free_port
    from antiphon.operations.preflight import end_left_over

    if (short := disk.shortage(store.paths.directory)) is not None:
        raise SetupError(short, where=str(store.paths.directory))
    _keep_private(store)
    require_protection(store.settings)
    tls_files(store.settings.tls, store.paths.root)
    for left in asyncio.run(end_left_over(store.paths.run)):
        note(f"ended the {left} that an earlier run left behind")
    require_free_port(store.settings.gateway.host, store.settings.gateway.port)
    if store.settings.engine.kind == "llamacpp":
        _fetch_models(store)
    from antiphon.services.governance.identity import first_key

    if (made := first_key(store)) is not None:
        note(f"an administrator's key, shown this once and kept in {store.paths.keys / 'admin.key'}:\n  {made[0]}")
    if apply:
        _apply(store)


def _fetch_models(store: Store) -> None:
    """Fetch what is registered and find the rest; a model that is missing takes none of the others down."""
    from antiphon.engine import weights
    from antiphon.engine.backends.llamacpp.library import find_library

    find_library()  # Before anything is fetched.
    expected, missing = store.settings.engine, dict[str, AntiphonError]()
    for model in (*expected.models, *expected.embedding_models):
        try:
            if model in weights.REGISTRY:
                with Progress(f"model {model}", " MB", 1e6) as progress:
                    weights.pull(model, progress=progress)
            weights.resolve(model)
        except AntiphonError as error:
            missing[model] = error
    if all(model in missing for model in expected.models):
        raise next(iter(missing.values()))
    for model, reason in missing.items():
        note(f"the model {model} is missing and answers 503; the others are served: {reason}")


def _keep_private(store: Store) -> None:
    """Take from other users what an earlier version, or another program, made readable to them; say who may write."""
    changed = disk.restrict(store.paths.directory)
    if changed:
        note(f"{changed} files and folders in {store.paths.directory} were open to other users; now they are not")
    for path in disk.writable_by_others(store.paths.root, store.settings.project.definitions):
        note(f"other users may write to {path}, and so run programs as you: chmod go-w {path}")


def _apply(store: Store) -> None:
    from antiphon.cli.project import at_terminal
    from antiphon.services.apply import apply as applying

    planned = applying.plan(store)
    if planned.under_way is not None:
        note(f"an apply is under way (run {planned.under_way}): the worker finishes it")
    changes = [change for change in planned.changes if change.change != "unchanged"]
    if store.applied.current(store.scope) is None:
        applied = applying.apply(store, principal=at_terminal(store).id, rationale="first start")
        live = f"{', '.join(applied.activated) or 'no application'} live"
        if applied.checks:
            live += f"; {', '.join(applied.checks)} held against gates first"
        note(f"applied the definitions: {live}")
    elif changes and planned.under_way is None:
        names = ", ".join(change.name for change in changes)
        note(f"the definitions differ from what is applied ({names}): `antiphon plan`, then `antiphon apply`")


async def _run(store: Store, as_json: bool) -> None:
    from antiphon.app.up import children
    from antiphon.app.up import up as supervise

    stop, hurry = asyncio.Event(), asyncio.Event()

    def interrupted() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, interrupted)
    ready = asyncio.Event()
    waited_for = {spec.name for spec in children(store)}

    def tell(event: ProcessEvent) -> None:
        _line(event, as_json)
        if event.event in ("ready", "stopped"):  # One that is not needed yet is not waited for.
            waited_for.discard(event.process)
            if not waited_for:
                ready.set()

    greeting = asyncio.create_task(_greet(store, ready, as_json))
    try:
        await supervise(store, stop, hurry, tell)
    finally:
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)


def _line(event: ProcessEvent, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(event).decode())
        return
    detail = f"  {event.detail}" if event.detail else ""
    color = {"ready": "green", "died": "red", "hung": "red", "killed": "red", "restarting": "yellow"}.get(event.event)
    name = typer.style(f"{event.event:<10}", fg=color) if color else f"{event.event:<10}"
    typer.echo(f"{event.at:%H:%M:%S}  {event.process:<8} {name}{detail}".rstrip())


async def _greet(store: Store, ready: asyncio.Event, as_json: bool, patience: float = _PUBLISH_SECONDS) -> None:
    """Say where it is once a question can be answered: the processes are ready and the features published.

    Features that nothing is publishing any more, because a source is missing or a gate blocks, are named instead.
    """
    await ready.wait()
    waiting = await asyncio.to_thread(_unpublished, store)
    if waiting and not as_json:
        typer.echo(f"          features publishing  {', '.join(sorted(waiting))}")
    began = asyncio.get_running_loop().time()
    while waiting and (asyncio.get_running_loop().time() - began < patience or await asyncio.to_thread(_busy, store)):
        await asyncio.sleep(_POLL)
        waiting = await asyncio.to_thread(_unpublished, store)
    checks = await _await_checks(store, as_json, patience)
    store.database.close()  # This process needs it no more, and the project may be moved from there.
    url = gateway_url(store.settings)
    if as_json:
        line = {"event": "up", "url": url, **({"unpublished": sorted(waiting)} if waiting else {})}
        line |= {"gates": checks} if checks else {}
        typer.echo(json.dumps(line, separators=(",", ":")))
        return
    if waiting:
        typer.echo(
            f"\n  Not published: {', '.join(sorted(waiting))}. `antiphon features list` shows what is in the way."
        )
    for sentence in checks:
        typer.echo(f"\n  {sentence}")
    typer.echo(f"\n  Antiphon is up.\n  dashboard  {url}/\n  API        {url}/v1")
    typer.echo(f"  key        {store.paths.keys / 'admin.key'}\n  Ctrl-C stops it.\n")


async def _await_checks(store: Store, as_json: bool, patience: float) -> list[str]:
    """Wait for the releases that are held against their gates, and say how far they are; sentences about those that
    did not go live. What only waits for something that is away is waited for no longer than ``patience``."""
    from antiphon.services.learning.gate_orders import gate_checks

    began, said = asyncio.get_running_loop().time(), ""
    while True:
        checks = await asyncio.to_thread(gate_checks, store, store.scope)
        under_way = [one for one in checks if one.state == "checking"]
        late = asyncio.get_running_loop().time() - began > patience
        if not under_way or (late and all("waits for" in one.sentence for one in under_way)):
            break
        line = "; ".join(f"{one.application} {one.sentence}" for one in under_way)
        if line != said and not as_json:
            typer.echo(f"          gates    {line}")
        said = line
        await asyncio.sleep(_POLL)
    return [f"{one.application}: release {one.number} {one.sentence}" for one in checks if one.state != "passed"]


def _busy(store: Store) -> bool:
    """Returns whether a run is in progress that publishes features."""
    from antiphon.features.offline.refresh import WORKFLOW
    from antiphon.services.workflows import APPLY

    open_runs = (
        store.runs.list(store.scope, 1, workflow=workflow, status=status)
        for workflow in (WORKFLOW, APPLY)
        for status in ("queued", "running")
    )
    return any(open_runs)


def _unpublished(store: Store) -> set[str]:
    """Views that a live release, or one that is to be, reads and no publication holds yet; the worker is about to
    publish them."""
    from antiphon.services.learning.gate_orders import arguments_of, open_gates

    if not store.settings.worker.refresh:
        return set()
    scope = store.scope
    expected = {
        f"{view}@{version}"
        for release in (
            *store.releases.live_ones(scope),
            *(store.releases.get(scope, arguments_of(run).release) for run in open_gates(store)),
        )
        for view, version in release.bundle.application.own_pinned.items()
    }
    return {name.partition("@")[0] for name in expected - store.publications.snapshots(scope).keys()}
