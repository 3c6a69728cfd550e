from pathlib import Path

import msgspec

from antiphon.core.ids import canonical
from antiphon.definitions import project
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.plan import plan_of

DEFINITIONS = """
from antiphon import Entity, Source, feature_view, count, mean, col

shop = Entity("shop", keys=["shop"])
orders = Source.stream("orders", event_time="at", event_id="id")

@feature_view(entity=shop, source=orders)
class Trade:
    value_1h = mean(col.value, window="1h", scale="0.01")
    orders_1h = count(window="1h")
    cost_1h = mean(col.cost, window="1h", scale="0.01")
"""


def test_a_definition_read_back_from_the_catalog_has_the_same_plan(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    declared = project.load(tmp_path).views["trade"]
    # The catalog keeps documents with sorted keys; declared order and alphabetical order differ here.
    stored = msgspec.json.decode(canonical(declared), type=FeatureViewSpec)
    assert list(declared.features) != list(stored.features)
    assert declared.definition_version == stored.definition_version
    first, second = plan_of(declared), plan_of(stored)
    assert first.measures == second.measures
    assert first.features == second.features
