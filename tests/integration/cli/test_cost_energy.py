"""``antiphon cost show --energy``: an interval with its source where power is declared, and nothing elsewhere."""

from __future__ import annotations

import json

from antiphon.catalog.ledger import MeteredUsage
from antiphon.services.project.store import Store


def test_energy_is_an_interval_in_the_table_in_json_and_in_csv(antiphon, project) -> None:
    store = Store.open(project)
    with store.database.transaction():
        usage = MeteredUsage("training_processor", 1_800_000_000, application="desk", role="train", work="run_1")
        store.ledger.add_with_commit(store.scope, [usage])
    store.close()
    assert "Energy" not in antiphon("cost", "show").out
    with (project / "antiphon.toml").open("a") as settings:
        settings.write('\n[energy]\ncore_watts = [4, 12]\nsource = "of the data sheet"\n')
    plain = antiphon("cost", "show").out.rstrip()
    assert plain.endswith(
        "Energy: 2.000 to 6.000 Wh. This is an estimate from training_processor, by figures of power of the data sheet."
    )
    head, line, total, *_ = antiphon("cost", "show", "--energy").out.splitlines()
    assert head.endswith("Wh, low  Wh, high")
    assert line.split()[-2:] == total.split()[-2:] == ["2.000", "6.000"]
    told = json.loads(antiphon("cost", "show", "--json").out)
    assert told["total"]["energy"] == {"low": 2.0, "high": 6.0}
    assert told["energy"] == {"source": "of the data sheet", "resources": ["training_processor"], "estimate": True}
    assert antiphon("cost", "show", "--energy", "--csv").out.splitlines()[-1].endswith(",2.000,6.000")
