"""``antiphon restart``: the processes of the running platform, replaced one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import note
from antiphon.core.errors import NotFoundError, SetupError

if TYPE_CHECKING:
    from antiphon.operations.children import ChildSpec
    from antiphon.operations.processes import ProcessRecord
    from antiphon.operations.replacement import Replacement
    from antiphon.services.project.store import Store

Names = Annotated[
    list[str] | None, typer.Argument(help="Processes, or kinds of them: gateway, worker, engine. All by default.")
]


def restart(names: Names = None, project: Project = HERE, as_json: Json = False) -> None:
    """Replace the processes of the running `antiphon up` one by one, each once the one before is ready again."""
    from antiphon.app.up import children
    from antiphon.services.project.store import Store

    store = Store.open(project)
    try:
        _require_up(store.paths.run)
        specs = children(store)
        chosen = _chosen(specs, names or [])
        for kind in sorted({_kind(one) for one in chosen} & {"gateway", "engine"}):
            if sum(_kind(one) == kind for one in specs) == 1:
                note(f"There is one {kind}: requests wait or are refused until it is ready again. See docs/stores.md.")
        asyncio.run(_replace(store, chosen, as_json))
    finally:
        store.close()


async def _replace(store: Store, chosen: Sequence[ChildSpec], as_json: bool) -> None:
    from antiphon.operations.replacement import replace

    replaced = set()
    async for done in replace(chosen, store.paths.run, lambda record: asyncio.to_thread(_listed, store, record)):
        _line(done, as_json)
        replaced.add(done.process)
    for spec in chosen:
        if spec.name not in replaced:
            note(f"{spec.name} is stopped because nobody needs it: its next start is a new one.")


def _line(done: Replacement, as_json: bool) -> None:
    text = f"{done.process:<12} {done.before} → {done.pid}, ready after {done.seconds:.1f} s"
    typer.echo(msgspec.json.encode(done).decode() if as_json else text)


def _listed(store: Store, record: ProcessRecord) -> bool:
    """Tells if an engine that joins has joined again; other processes are on no list."""
    from antiphon.catalog.engine_instances import EngineInstances
    from antiphon.catalog.process_leases import ProcessLeases

    if not store.settings.engine.join or not record.name.startswith("engine"):
        return True
    living = EngineInstances(ProcessLeases(store.database, store.scope.environment)).living()
    return any(one.process.rsplit("/", 2)[-2] == str(record.pid) for one in living)


def _require_up(run: Path) -> None:
    from antiphon.operations.preflight import is_up

    if not is_up(run):
        raise SetupError("The platform is not up here.", where=str(run.parent), next_step="Start it: `antiphon up`.")


def _chosen(specs: Sequence[ChildSpec], names: Sequence[str]) -> list[ChildSpec]:
    """The processes of these names or kinds, in the order in which they are started.

    Raises:
        NotFoundError: there is none of a name.
    """
    for name in names:
        if not any(name in (one.name, _kind(one)) for one in specs):
            raise NotFoundError(
                f"There is no process {name!r}.", where="restart",
                next_step=f"There are {', '.join(one.name for one in specs)}.",
            )  # fmt: skip
    return [one for one in specs if not names or one.name in names or _kind(one) in names]


def _kind(spec: ChildSpec) -> str:
    return spec.name.partition("-")[0]
