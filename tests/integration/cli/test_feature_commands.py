"""``antiphon features`` over a project whose versions passed, kept rows aside and were blocked."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.harness.refresh import run_refresh
from tests.integration.cli.conftest import run_in

from antiphon.services.apply.apply import apply
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

DEFINITIONS = """
from antiphon import Entity, Quality, Source, col, count, expect, feature_view, last

orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


def plausible(values):
    return [f"{row['shop']} has {row['orders']}" for row in values.to_pylist() if row["orders"] > 90]


@feature_view(entity=Entity("shop", keys=["shop"]), source=orders, quality=Quality(
    expect.between("paid", 0, 100, action="quarantine"), expect.volume(0.5, 2), expect.python(plausible)))
class Today:
    "What came in."
    orders = count(window=None)
    paid = last(col.paid)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "antiphon.toml").write_text('[project]\nname = "shop"\n[engine]\nkind = "simulated"\n')
    (folder / "definitions.py").write_text(DEFINITIONS)
    rows = [f"{n},{'tea' if n % 2 else 'cake'},2026-01-01T10:{n:02}:00Z,{n}.5" for n in range(40)]
    store = Store.open(folder)
    platform = FeaturePlatform(store)
    apply(store, principal="me")
    for lines in ([*rows, "odd,tea,2026-01-01T11:00:00Z,-3"], rows, rows[:10]):
        (folder / "orders.csv").write_text("\n".join(["id,shop,ordered,paid", *lines]) + "\n")
        asyncio.run(run_refresh(store, platform))
    platform.close()
    store.close()
    return folder


def test_the_commands_tell_what_became_of_a_view(shop: Path) -> None:
    antiphon = run_in(shop)
    described = antiphon("features", "describe", "today")
    assert described.code == 0, described.err
    for part in (
        "What came in.", "range of paid", "The last version is blocked", "0.25 times the 40 before", "40 rows read",
        "ordered by ops: nightly", "without a defect", "100% of all events",
    ):  # fmt: skip
        assert part in described.out, part
    versions = antiphon("features", "history", "today", "--json").json()
    assert [version["outcome"] for version in versions] == ["blocked", "passed", "warned"]
    assert [version["current"] for version in versions] == [False, True, False]
    assert versions[2]["rows_rejected"] == 1
    told = antiphon("features", "history", "today").out
    assert "quarantine: 1 of 41 rows are kept aside: paid is not from 0 to 100; there is -3." in told
    kept = antiphon("features", "quarantine", "today")
    assert "1 rows are kept out" in kept.out
    assert "-3" in kept.out
    assert antiphon("features", "quarantine", "today", "--json").json()["rows"][0]["columns"]["id"] == "odd"
    compared = antiphon("features", "diff", versions[2]["id"], versions[0]["id"])
    assert "today: same: the definition is the same" in compared.out
    assert "paid" in compared.out
    status = antiphon("features", "list").out
    assert "today: its last version is blocked, the one before stays: The view 'today' has only 10 rows" in status
    assert antiphon("features", "describe", "nothing").code == 3
    assert antiphon("features", "diff", "snap_x", "snap_y").code == 3


def test_pruning_says_what_goes_and_what_pins_the_rest(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    antiphon = run_in(folder)
    short = {"ANTIPHON_FEATURES__QUARANTINE_KEPT": "1ms", "ANTIPHON_FEATURES__SNAPSHOTS_KEPT": "1ms"}
    nothing = antiphon("features", "prune", "--dry-run")
    assert nothing.code == 0, nothing.err
    assert "files of the lake would go." in nothing.out, "those of the blocked version"
    assert "publication 2; age until" in nothing.out
    dry = antiphon("features", "prune", "--dry-run", "--json", **short).json()
    assert [pin["kind"] for line in dry["kept"] for pin in line["pins"]].count("publication") == 2
    assert (dry["dry"], len(dry["expired"])) == (True, 1)
    assert "rows are kept out" in antiphon("features", "quarantine", "today").out
    went = antiphon("features", "prune", **short)
    assert "1 quarantines went." in went.out
    told = antiphon("features", "quarantine", "today")
    assert told.code == 0, told.err
    assert "1 rows were kept out of verd_" in told.out
    assert "range of paid 1\nThey expired on 20" in told.out
    assert antiphon("features", "quarantine", "today", "--json").json()["expired_at"] is not None
    acts = antiphon("audit", "query", "--json").out
    assert "quarantine.expire" in acts


def test_a_backfill_is_foretold_ordered_paused_and_given_up(shop: Path) -> None:
    antiphon = run_in(shop)
    days = ("--from", "2026-01-01", "--to", "2026-01-03T12:00:00Z")
    foretold = antiphon("features", "backfill", "today", *days, "--dry-run")
    assert foretold.code == 0, foretold.err
    assert "4 partitions: today@" in foretold.out
    assert "2026-01-01 00:00:00Z to 2026-01-03 12:00:00Z" in foretold.out
    ordered = antiphon("features", "backfill", "today", *days, "--reason", "a look", "--json").json()
    run = ordered["id"]
    assert (ordered["workflow"], ordered["status"]) == ("backfill", "queued")
    assert antiphon("features", "backfill", "today", *days, "--wait").code != 0  # No worker runs.
    assert antiphon("runs", "pause", run, "--reason", "later").code == 0
    assert "paused by" in antiphon("features", "backfills").out
    assert "paused by" in antiphon("runs", "list").out
    early = antiphon("features", "promote", run, "--reason", "early")
    assert (early.code, "is queued" in early.err) == (5, True)
    assert antiphon("runs", "resume", run).code == 0
    assert antiphon("runs", "cancel", run).code == 0
    assert "0 partitions given up" in antiphon("features", "discard", run, "--reason", "not needed").out
    assert "No partition yet." in antiphon("features", "backfills", run).out
    past = antiphon("features", "refresh", "today", "--as-of", "2026-01-01T00:00:00Z")
    assert (past.code, "would publish values of the past" in past.err) == (2, True)
    none = antiphon("features", "export", "today", "--backfill", run, "--to", str(shop / "out"))
    assert (none.code, "Nothing of today is kept" in none.err) == (3, True)
