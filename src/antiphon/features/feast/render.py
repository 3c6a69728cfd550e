"""Renders a translation as the two files of a project and checks them by loading."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from antiphon.core.disk import put_private
from antiphon.core.errors import ConflictError, SetupError
from antiphon.core.settings import FILE_NAME
from antiphon.definitions import project as definitions
from antiphon.features.feast.translation import Translation, WrittenService, WrittenSource, WrittenView

DEFINITIONS = "definitions.py"


def definitions_text(translation: Translation, origin: str) -> str:
    """The text of ``definitions.py``."""
    services = translation.services
    contracts = {view.class_name: view.ttl for view in translation.views if view.ttl}
    names = ["Entity", *(["Freshness"] if contracts else []), "Source", "col", "feature_view", "last"]
    if translation.on_demand:
        written = " ".join(code for view in translation.on_demand for code in view.features.values())
        names += ["on_demand", "on_demand_view", *(name for name in ("request", "when") if name in written)]
    lines = [
        f'"""Definitions translated from the Feast repository {origin}: edit them, they are yours now.',
        "",
        "A feature is the latest value of its column. FRESHNESS holds Feast's ttl: give it to an application",
        '(`Application(…, features=…, freshness=…)`), and it holds online and in batch."""',
        "",
        f"from antiphon import {', '.join(names)}",
        "",
    ]
    lines += [
        f"{entity.variable} = Entity({_text(entity.name)}, keys=[{', '.join(_text(key) for key in entity.keys)}])"
        for entity in translation.entities
    ]
    lines += ["", *(_source(source) for source in translation.sources)]
    for view in translation.views:
        lines += ["", "", *_view(view)]
    for computed in translation.on_demand:
        inputs = ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in computed.inputs.items())
        lines += ["", "", f"@on_demand_view(inputs={{{inputs}}})", f"class {computed.class_name}:"]
        lines += [f"    {name} = on_demand({code})" for name, code in computed.features.items()]
    if contracts:
        listed = [
            f'    {name}: Freshness(max_age={_text(ttl)}, when_stale="default"),' for name, ttl in contracts.items()
        ]
        lines += ["", "", "FRESHNESS = {", *listed, "}"]
    for service in services:
        lines += ["", *_service(service, contracts)]
    return "\n".join(lines) + "\n"


def settings_text(translation: Translation, feast_url: str = "", feast_project: str = "") -> str:
    """The text of ``antiphon.toml``."""
    lines = ["[project]", f"name = {_text(translation.project)}", 'environment = "dev"', ""]
    if feast_url:
        lines += ["[feast]", f"url = {_text(feast_url)}", f"project = {_text(feast_project)}", ""]
    return "\n".join(lines)


def check(text: str) -> None:
    """Load definitions as a project would; raises ``InvalidDefinitionsError`` when they have mistakes: then the
    translation has a fault, and nothing was written."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / DEFINITIONS
        file.write_text(text, encoding="utf-8")
        definitions.load(file)


def write(target: Path, text: str, settings: str, *, replace: bool) -> list[str]:
    """Write the definitions and, where there are none, the settings; each file appears whole. Raises ``ConflictError``
    when there are definitions already, ``SetupError`` when the folder cannot be written."""
    file = target / DEFINITIONS
    if file.exists() and not replace:
        raise ConflictError(
            f"{file} exists already.", next_step="Name another folder with --to, or replace it with --replace."
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        written = []
        if not (target / FILE_NAME).exists():
            put_private(target / FILE_NAME, settings.encode())
            written.append(FILE_NAME)
        put_private(file, text.encode())
    except OSError as error:
        raise SetupError(f"{error.filename or target} cannot be written: {error.strerror}.") from None
    return [*written, DEFINITIONS]


def _source(source: WrittenSource) -> str:
    if source.view:
        return f"{source.variable} = Source.feast({_text(source.name)}, view={_text(source.view)})"
    options = [f"event_time={_text(source.event_time)}"]
    if source.created:
        options.append(f"available_at={_text(source.created)}")
    if source.event_id:
        options = [f"history={_text(source.path)}", *options, f"event_id={_text(source.event_id)}"]
    else:
        options = [f"path={_text(source.path)}", *options]
    kind = "stream" if source.event_id else "table"
    listed = "".join(f"\n    {option}," for option in options)
    return f"{source.variable} = Source.{kind}(\n    {_text(source.name)},{listed}\n)"


def _view(view: WrittenView) -> list[str]:
    owner = f", owner={_text(view.owner)}" if view.owner else ""
    lines = [f"@feature_view(entity={view.entity}, source={view.source}{owner})", f"class {view.class_name}:"]
    if view.description:
        lines += [f"    {_text(view.description)}", ""]
    for name, column in view.features.items():
        read = f"col.{column}" if column.isidentifier() and not column.startswith("_") else f"col[{_text(column)}]"
        lines.append(f"    {name} = last({read})")
    return lines


def _service(service: WrittenService, contracts: dict[str, str]) -> list[str]:
    listed = ", ".join(service.views)
    comma = "," if len(service.views) == 1 else ""
    lines = [f"# Feast's service {_text(service.name)}: an application's features"]
    lines[0] += ", each with its contract in FRESHNESS." if set(service.views) & set(contracts) else "."
    return [*lines, f"{service.variable} = ({listed}{comma})"]


def _text(value: str) -> str:
    """A Python literal in double quotes; TOML reads it alike."""
    return msgspec.json.encode(value).decode()
