"""Energy is an interval from declared power, whose parts add up; nothing is told where nothing is declared."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.catalog.examples import NOON
from tests.unit.operations.cost.ledgers import HOUR, book, entry, price

from antiphon.catalog.ledger import LedgerEntry
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings import parse
from antiphon.core.settings_costs import EnergySettings
from antiphon.operations.cost.energy import EnergyFigures, WattHours
from antiphon.operations.cost.rating import Charge, charges
from antiphon.operations.cost.summary import csv_rows, energy_text, summarize

DECLARED = EnergySettings((3.0, 12.0), (1.0, 8.0), (20.0, 60.0), source="measured at the socket")
HOURS = 3_600_000_000
PRICES = book(price("engine", "0.00004"), price("engine", "0.00003", since=NOON, recorded=NOON + 50 * HOUR))


def charged(*used: LedgerEntry) -> list[Charge]:
    return charges(used, PRICES)


USED = charged(
    entry("engine", 2 * HOURS, engine="main"),
    entry("engine", 5 * HOURS, engine="cloud"),  # A server elsewhere.
    entry("engine_idle", 3 * HOURS, engine="main", application=""),
    entry("training_processor", 4 * HOURS, role="train"),
    entry("worker", 9 * HOURS, role="train"),
    entry("saved_engine", 7 * HOURS, engine="main"),
)


def test_each_second_counts_with_its_figure_and_once_whatever_its_price_became() -> None:
    assert {one.kind for one in USED} == {"usage", "correction", "saved"}
    found = summarize(USED, ("resource",), "EUR", EnergyFigures(DECLARED, ["main"]))
    assert {line.group["resource"]: line.energy for line in found.lines} == {
        "engine": WattHours(2 * 3.0, 2 * 12.0 * 8),
        "engine_idle": WattHours(60.0, 180.0),
        "training_processor": WattHours(12.0, 48.0),
        "worker": None,
        "saved_engine": None,
    }
    assert found.total.energy == WattHours(6.0 + 60 + 12, 192.0 + 180 + 48)
    assert found.energy is not None
    assert (found.energy.estimate, found.energy.source) == (True, "measured at the socket")
    assert energy_text(found) == (
        "Energy: 78.000 to 420.000 Wh. This is an estimate from training_processor, engine, engine_idle, by figures of "
        "power measured at the socket."
    )
    head, *rows = csv_rows(found, str, energy=True)
    assert head[-2:] == ["estimated_watt_hours_low", "estimated_watt_hours_high"]
    assert rows[-1][-2:] == ["78.000", "420.000"]


def test_what_has_no_figure_is_in_no_estimate() -> None:
    of_cores = EnergyFigures(EnergySettings(core_watts=(3.0, 12.0)), ["main"])
    found = summarize(USED, ("resource",), "EUR", of_cores)
    assert found.total.energy == WattHours(12.0, 48.0)
    assert found.energy is not None
    assert found.energy.resources == ("training_processor",)
    assert summarize([], (), "EUR", of_cores).total.energy is None
    nothing = summarize(USED, ("resource",), "EUR", EnergyFigures(EnergySettings(), ["main"]))
    assert nothing == summarize(USED, ("resource",), "EUR")
    assert energy_text(nothing) == ""


def test_gpus_have_power_of_their_own() -> None:
    used = charged(entry("gpu", 8 * HOURS, engine="cloud"), entry("engine", 2 * HOURS, engine="cloud"))
    figures = EnergyFigures(EnergySettings((3.0, 12.0), (1.0, 8.0), gpu_watts=(90.0, 700.0)), ["main"])
    assert figures.sum(used) == WattHours(720.0, 5_600.0)


def test_work_that_was_under_way_moves_from_one_hour_to_the_next_in_both_bounds() -> None:
    figures = EnergyFigures(DECLARED, ["main"])
    begun, ended = entry("engine", 2 * HOURS, engine="main"), entry("engine", -HOURS, NOON + HOUR, engine="main")
    parts = [figures.sum(charged(one)) for one in (begun, ended)]
    whole = figures.sum(charged(begun, ended))
    assert whole == WattHours(3.0, 96.0)
    assert [sum(getattr(one, bound) for one in parts) for bound in ("low", "high")] == [whole.low, whole.high]


def test_gpus_of_any_engine_can_be_declared() -> None:
    file = Path("antiphon.toml")
    server = b'[engine]\nkind = "remote"\nurl = "http://10.0.0.7:8000/v1"\ngpus = 8'
    assert parse(server, file, {}).engine.gpus == 8
    assert parse(b"[engine]\ngpus = 2", file, {}).engine.gpus == 2
    with pytest.raises(InvalidInputError, match="gpus"):
        parse(b"[engine]\ngpus = -1", file, {})


def test_bounds_are_in_their_order() -> None:
    file = Path("antiphon.toml")
    assert parse(b"[energy]\nidle_watts = [0, 5.5]", file, {}).energy.idle_watts == (0.0, 5.5)
    with pytest.raises(InvalidInputError, match="idle_watts names its lowest figure first"):
        parse(b"[energy]\nidle_watts = [9.0, 5.0]", file, {})
    with pytest.raises(InvalidInputError, match="core_watts"):
        parse(b"[energy]\ncore_watts = [-1.0, 5.0]", file, {})
