"""``antiphon up``: the whole platform on this machine, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, note

if TYPE_CHECKING:
    from antiphon.app.store import Store
    from antiphon.operations.supervisor import Happened


def up(
    project: Project = HERE,
    apply: Annotated[
        bool, typer.Option("--apply/--no-apply", help="Apply the definitions when nothing is applied yet.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run engine, gateway and worker; restart what dies; Ctrl-C drains them, a second Ctrl-C kills them."""
    import asyncio

    from antiphon.app.store import Store

    store = Store.open(project)
    try:
        _prepare(store, apply)
        asyncio.run(_run(store, as_json))
    finally:
        store.close()


def _prepare(store: Store, apply: bool) -> None:
    """What a first start needs, before anything runs: the model, a key, the definitions."""
    from antiphon.operations.preflight import require_free_port, require_not_up

    require_not_up(store.paths.run)
    require_free_port(store.settings.gateway.host, store.settings.gateway.port)
    if store.settings.engine.kind == "llamacpp":
        from antiphon.engine import weights

        for model in store.settings.engine.models:
            if model in weights.REGISTRY:
                progress = Progress(f"model {model}", " MB", 1e6)
                weights.pull(model, progress=progress)
                progress.end()
            weights.resolve(model)
    key_file = admin_key(store)
    if key_file is not None:
        note(f"made an administrator's key: {key_file}")
    if apply:
        _apply(store)


def admin_key(store: Store) -> str | None:
    """Make the first administrator's key, in a file only its owner may read; ``None`` when there are keys."""
    import os

    if store.keys.list(store.scope.tenant):
        return None
    file = store.paths.keys / "admin.key"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, _ = store.keys.create(store.scope.tenant, "admin", "admin", kind="person")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(key)
    return str(file)


def _apply(store: Store) -> None:
    from antiphon.app import apply as applying
    from antiphon.cli.project import at_terminal

    planned = applying.plan(store)
    changes = [change for change in planned.changes if change.change != "unchanged"]
    if store.applied.current(store.scope) is None:
        applied = applying.apply(store, principal=at_terminal(store).id, rationale="first start")
        note(f"applied the definitions: {', '.join(applied.activated) or 'no application'} live")
    elif changes:
        names = ", ".join(change.name for change in changes)
        note(f"the definitions differ from what is applied ({names}): `antiphon plan`, then `antiphon apply`")


async def _run(store: Store, as_json: bool) -> None:
    import asyncio
    import signal

    from antiphon.cli import children
    from antiphon.operations.supervisor import Supervisor

    stop, hurry = asyncio.Event(), asyncio.Event()

    def interrupted() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, interrupted)
    gateway = store.settings.gateway
    supervisor = Supervisor(
        children.of_project(store),
        run=store.paths.run,
        logs=store.paths.logs,
        drain_order=children.DRAIN_ORDER,
        listens=[(gateway.host, gateway.port)],
        tell=_tell_json if as_json else _tell,
    )
    greeting = asyncio.create_task(_greet(supervisor, store, as_json))
    try:
        await supervisor.supervise(stop, hurry)
    finally:
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)


async def _greet(supervisor: object, store: Store, as_json: bool) -> None:
    from antiphon.cli.children import ANY_ADDRESS
    from antiphon.operations.supervisor import Supervisor

    assert isinstance(supervisor, Supervisor)
    await supervisor.all_ready()
    gateway = store.settings.gateway
    url = f"http://{ANY_ADDRESS.get(gateway.host, gateway.host)}:{gateway.port}"
    key = store.paths.keys / "admin.key"
    if as_json:
        typer.echo(f'{{"event":"up","url":"{url}"}}')
        return
    typer.echo(f"\n  Antiphon is up.\n  dashboard  {url}/\n  API        {url}/v1")
    if key.exists():
        typer.echo(f"  key        {key}")
    typer.echo("  Ctrl-C stops it.\n")


def _tell(happened: Happened) -> None:
    detail = f"  {happened.detail}" if happened.detail else ""
    colour = {"ready": "green", "died": "red", "killed": "red", "restarting": "yellow"}.get(happened.event)
    event = typer.style(f"{happened.event:<10}", fg=colour) if colour else f"{happened.event:<10}"
    typer.echo(f"{happened.at:%H:%M:%S}  {happened.process:<8} {event}{detail}".rstrip())


def _tell_json(happened: Happened) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(happened).decode())
