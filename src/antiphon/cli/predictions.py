"""``antiphon explain`` and ``antiphon replay``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.cli.project import services

Prediction = Annotated[str, typer.Argument(metavar="PREDICTION", help="Its id, pred_….")]


def explain(prediction: Prediction, project: Project = HERE, as_json: Json = False) -> None:
    """Everything one prediction was made from, down to the source rows."""
    import asyncio

    async def found() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            return await asyncio.to_thread(ports.explain, store.scope, prediction)

    explained = asyncio.run(found())
    show(explained, as_json, lambda: outline(explained))


def replay(prediction: Prediction, project: Project = HERE, as_json: Json = False) -> None:
    """Make a prediction's text again and compare; leaves with 1 when it differs."""
    import asyncio

    async def made() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            return await ports.replay(store.scope, prediction)

    replayed = asyncio.run(made())
    show(replayed, as_json, lambda: outline(replayed))
    if replayed.get("identical") is False:
        raise typer.Exit(1)


def outline(value: Any, depth: int = 0) -> str:
    """Nested values as an indented outline: long texts as blocks, lists of small values on one line."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        lines = []
        for name, inner in value.items():
            label = str(name).replace("_", " ")
            if _is_small(inner):
                lines.append(f"{pad}{label:<{max(2, 24 - 2 * depth)}} {_small(inner)}")
            else:
                lines += [f"{pad}{label}", outline(inner, depth + 1)]
        return "\n".join(lines)
    if isinstance(value, list | tuple):
        return "\n".join(
            f"{pad}- {_small(inner)}" if _is_small(inner) else f"{pad}-\n{outline(inner, depth + 1)}" for inner in value
        )
    return "\n".join(pad + line for line in str(value).splitlines())


def _is_small(value: Any) -> bool:
    if isinstance(value, str):
        return "\n" not in value and len(value) <= 160
    if isinstance(value, Mapping):
        return len(value) <= 3 and all(isinstance(inner, int | float | str | None) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(isinstance(inner, int | float | None) for inner in value) or not value
    return True


def _small(value: Any) -> str:
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_small(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        shown = " ".join(_small(inner) for inner in value[:12])
        return f"{shown} … ({len(value)})" if len(value) > 12 else shown
    return str(value)
