"""Texts that are not public stand in no statistics, wherever those are kept or shown."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest
from tests.integration.services.watched_project import Project, told

CLINIC = """
from antiphon import Entity, Quality, Source, col, count, expect, feature_view, last

visits = Source.table("visits", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=Entity("ward", keys=["shop"]), source=visits, {tags}quality=Quality(
    expect.one_of("paid", ["asthma"], action="warn"), expect.steady("diagnosis", over="features", action="warn")))
class Ward:
    visits = count(window=None)
    diagnosis = last(col.paid)
"""
SECRET = "syphilis"
PSEUDONYM = r"withheld [0-9a-f]{12}"


def rows(diagnosis: str, first: int = 0) -> list[str]:
    return [f"{n},ward {n},2026-01-01T10:00:00Z,{diagnosis if n % 4 else 'asthma'}" for n in range(first, first + 200)]


async def clinic(folder: Path, tags: str) -> Project:
    (folder / "orders.csv").write_text("")
    project = Project(folder, CLINIC.replace("{tags}", tags))
    project.write(*rows("influenza"))
    await project.refresh("ward")
    project.write(*rows("influenza"), *rows(SECRET, 200))
    await project.refresh("ward")
    return project


async def surfaces(project: Project) -> dict[str, str]:
    """Everything that shows or keeps what was found out about the view's columns."""
    store = project.store
    shown = {}
    for run in store.runs.list(store.scope):
        for name, flags in (("text", ()), ("json", ("--json",))):
            shown[f"runs show, {name}, {run.id}"] = (
                await asyncio.to_thread(project.terminal, "runs", "show", run.id, *flags)
            ).out
        shown[f"steps of {run.id}"] = msgspec.json.encode(store.runs.steps(store.scope, run.id)).decode()
    manifests = store.snapshots.list(store.scope, "ward")
    after, before = (manifest.id for manifest in manifests)
    for command in (("describe", "ward"), ("history", "ward"), ("diff", before, after), ("list",)):
        for flags in ((), ("--json",)):
            ran = await asyncio.to_thread(project.terminal, "features", *command, *flags)
            assert ran.code == 0, ran.err
            shown[" ".join(("features", *command, *flags))] = ran.out
    shown["manifests"] = msgspec.json.encode(manifests).decode()
    async with project.http() as client:
        for path in ("", "/history", f"/diff?before={before}&after={after}"):
            shown[f"GET /admin/features/ward{path}"] = str(told(await client.get(f"/admin/features/ward{path}")))
    async with project.http(page=True) as client:
        for path in ("", f"/diff?before={before}&after={after}"):
            page = await client.get(f"/features/ward{path}", follow_redirects=True)
            assert page.status_code == 200
            shown[f"the page /features/ward{path}"] = page.text
    return shown


@pytest.mark.parametrize("tags", ["", 'sensitivity="restricted", ', 'sensitivity={"diagnosis": "confidential"}, '])
async def test_texts_that_are_not_public_are_withheld_everywhere(tmp_path: Path, tags: str) -> None:
    project = await clinic(tmp_path, tags)
    try:
        shown = await surfaces(project)
        assert {name for name, text in shown.items() if SECRET in text or "influenza" in text} == set()
        latest = project.store.snapshots.list(project.store.scope, "ward")[0]
        names = latest.statistics["diagnosis"].top
        assert sorted(names.values()) == [100, 150, 150]
        assert all(re.fullmatch(PSEUDONYM, name) for name in names)
        quality = latest.source_quality
        assert quality is not None
        assert all(re.fullmatch(PSEUDONYM, name) for name in quality.columns["paid"].top)
        reasons = [finding.reason for finding in project.store.verdicts.list(project.store.scope, "ward")[0].findings]
        assert any("none of the known values; there are 2 others, withheld" in reason for reason in reasons)
        # A category that came is still seen, by its pseudonym.
        assert any(re.search(f"distribution shifted .*new: '{PSEUDONYM}'", reason) for reason in reasons), reasons
    finally:
        project.close()


async def test_public_texts_are_named(tmp_path: Path) -> None:
    project = await clinic(tmp_path, 'sensitivity="public", ')
    try:
        shown = await surfaces(project)
        telling = {name for name, text in shown.items() if SECRET in text}
        assert {"manifests", "features describe ward", "GET /admin/features/ward", "the page /features/ward"} <= telling
        assert any(name.startswith("runs show, text") for name in telling)
        latest = project.store.snapshots.list(project.store.scope, "ward")[0]
        assert latest.statistics["diagnosis"].top == {"influenza": 150, SECRET: 150, "asthma": 100}
    finally:
        project.close()


async def test_a_text_that_becomes_withheld_raises_no_alarm(tmp_path: Path) -> None:
    project = await clinic(tmp_path, 'sensitivity="public", ')
    try:
        from antiphon.services.apply.apply import apply

        (tmp_path / "definitions.py").write_text(CLINIC.replace("{tags}", 'sensitivity="restricted", '))
        apply(project.store, principal="me")
        await project.refresh("ward")
        findings = project.store.verdicts.list(project.store.scope, "ward")[0].findings
        assert not [finding for finding in findings if "shifted" in finding.reason]
        (latest, *_) = project.store.snapshots.list(project.store.scope, "ward")
        assert all(re.fullmatch(PSEUDONYM, name) for name in latest.statistics["diagnosis"].top)
    finally:
        project.close()
