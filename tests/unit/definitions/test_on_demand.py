"""On-demand features as written: what is refused, what moves a version, and inputs as requests send them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from antiphon import Figure, on_demand_view, one_hot, request
from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError
from antiphon.core.ids import canonical, content_hash
from antiphon.definitions import project
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.expression import FeatureName, Term
from antiphon.definitions.nodes import ArithmeticNode, FeatureValueNode, LiteralNode, RequestInputNode
from antiphon.definitions.on_demand import checked_input, input_of_text
from antiphon.features.expressions.on_demand import payload, values, with_on_demand
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.serving.features.on_demand import checked_inputs

TEXT = """
from antiphon import *
card = Entity("card", keys=["card"])
payments = Source.stream("payments", event_time="at", event_id="id")

@feature_view(entity=card, source=payments)
class Spend:
    mean_7d = mean(col.amount, window="7d", scale="0.01")
    shop = last(col.shop)

@on_demand_view(inputs={INPUTS})
class Purchase:
    ratio = on_demand({RATIO})
    night = on_demand(now.hour("Europe/Berlin") < 6)
    same_shop = on_demand(request.shop.lower() == Spend.shop)

app = Application("watch", features=[Spend, Purchase], model="m", purpose="fraud", entities=[card],
    prompt=Prompt(template="{{ features.purchase.ratio }} {{ features.spend.mean_7d }}"),
    figures=[Figure(Purchase.ratio, step=0.1), Figure(Spend.mean_7d, step=1)]{MORE})
"""
INPUTS = '{"amount": "number", "shop": "text"}'
RATIO = "request.amount / (Spend.mean_7d + 1)"


def load(folder: Path, inputs: str = INPUTS, ratio: str = RATIO, more: str = "") -> ApplicationSpec:
    text = TEXT.replace("{INPUTS}", inputs).replace("{RATIO}", ratio).replace("{MORE}", more)
    (folder / "definitions.py").write_text(text)
    return project.load(folder).applications["watch"]


def test_an_on_demand_view_is_pinned_beside_the_stored_ones(tmp_path: Path) -> None:
    application = load(tmp_path)
    (view,) = application.on_demand
    assert list(application.features) == ["spend"]
    assert application.versions == application.features | {"purchase": view.definition_version}
    assert view.features["ratio"] == ArithmeticNode(
        "/", RequestInputNode("amount"), ArithmeticNode("+", FeatureValueNode("spend.mean_7d"), LiteralNode(1.0))
    )
    assert view.reads() == {"spend.mean_7d", "spend.shop"}
    # A release comes back from the catalog as the same value.
    assert msgspec.json.decode(canonical(application), type=ApplicationSpec) == application


def test_a_meaning_moves_the_version_and_a_spelling_does_not(tmp_path: Path) -> None:
    def version(inputs: str = INPUTS, ratio: str = RATIO) -> str:
        return load(tmp_path, inputs, ratio).versions["purchase"]

    same = version()
    assert same == version(ratio='(request["amount"] / (Spend.mean_7d + 1.0))')
    assert same != version(ratio="request.amount / (Spend.mean_7d + 2)")
    assert same != version(inputs='{"amount": "number", "shop": "text", "more": "text"}')


@pytest.mark.parametrize(
    ("inputs", "ratio", "more", "said"),
    [
        ('{"amount": "float", "shop": "text"}', RATIO, "", "the input 'amount' is of type 'float'; types are number"),
        ('{"Amount": "number"}', RATIO, "", "the input 'Amount' is no lower-case name"),
        ('["amount"]', RATIO, "", "inputs must map names to types"),
        ('{"shop": "text"}', RATIO, "", "request.amount is no declared input; there are shop."),
        (INPUTS, "col.amount + 1", "", "col.amount is a column of events"),
        (INPUTS, "now", "", "a number, boolean or text is needed, not an instant."),
        (INPUTS, "now < 3", "", "'<' compares an instant"),
        (INPUTS, "now.hour('Mars/Olympus')", "", "hour: there is no time zone 'Mars/Olympus'"),
        (INPUTS, "request.amount.round_to('0')", "", "round_to: the step must be a positive decimal"),
        (INPUTS, "request.amount.hash_bucket(0)", "", "hash_bucket needs a number of buckets"),
        (INPUTS, "Spend.mean_7d.is_in([1, 'a'])", "", "is_in mixes number and text."),
        (INPUTS, "when(Spend.shop == 'a').then(1).otherwise('b')", "", "when mixes number and text."),
        (INPUTS, "Term", "", "NameError"),
        (INPUTS, "request.amount if request.amount > 1 else 0", "", "has no truth value"),
        (
            INPUTS,
            RATIO,
            ", freshness={'purchase': Freshness('1h')}",
            "freshness: 'purchase' is computed when something is asked",
        ),
        ('{"amount": "number", "shop": "text", "card": "number"}', RATIO, "", "the input 'card' is the entity key"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, inputs: str, ratio: str, more: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as caught:
        load(tmp_path, inputs, ratio, more)
    assert said in str(caught.value)
    assert "definitions.py:" in str(caught.value)


def test_a_feature_of_another_view_must_be_the_applications(tmp_path: Path) -> None:
    with pytest.raises(InvalidDefinitionsError, match=r"view 'purchase'.*no feature 'other'|has no feature 'other'"):
        load(tmp_path, ratio="request.amount / Spend.other")


def test_an_aggregate_cannot_read_a_request(tmp_path: Path) -> None:
    body = TEXT.replace("col.amount", "request.amount").replace("{INPUTS}", INPUTS)
    (tmp_path / "definitions.py").write_text(body.replace("{RATIO}", RATIO).replace("{MORE}", ""))
    with pytest.raises(InvalidDefinitionsError, match=r"request\.amount is known when something is asked"):
        project.load(tmp_path)


def test_a_features_name_is_a_text_where_texts_are_wanted_and_a_term_in_expressions() -> None:
    name = FeatureName("spend.shop")
    assert name == "spend.shop"
    assert {name: 1}["spend.shop"] == 1
    assert (name != "spend.shop") is False
    assert name != FeatureName("spend.other")
    assert type(Figure(name).feature) is str
    for term in (
        name + 1, 1 - name, name / 2, -name, name > 1, name == "web", name != 3, ~name, name.lower(), name.is_null(),
        name.coalesce(0), name.is_in(["a"]), name.round_to("1"), name.hour("UTC"),
    ):  # fmt: skip
        assert isinstance(term, Term)
    with pytest.raises(TypeError, match="no truth value"):
        bool(name == "web")


@pytest.mark.parametrize(
    ("declared", "value", "kept"),
    [
        ("number", 3, 3.0), ("number", 2.5, 2.5), ("number", None, None), ("boolean", False, False),
        ("text", "é", "é"), ("text", "", ""),
        ("instant", "2013-04-01T10:00:00+02:00", datetime(2013, 4, 1, 8, tzinfo=UTC)),
        ("instant", datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_inputs_come_out_as_their_types_have_them(declared: Any, value: object, kept: object) -> None:
    found = checked_input("x", declared, value)
    assert (type(found), found) == (type(kept), kept)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("number", True), ("number", "3"), ("number", float("nan")), ("number", float("inf")), ("number", 10**400),
        ("number", [1]), ("boolean", 1), ("boolean", "true"), ("text", 3), ("text", "a" * 10_001), ("text", "\ud800"),
        ("text", {}), ("instant", "yesterday"), ("instant", "2013-04-01T10:00:00"), ("instant", 3),
        ("instant", "2013-02-30T10:00:00Z"),
    ],
)  # fmt: skip
def test_an_input_of_another_type_is_refused_by_name(declared: Any, value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        checked_input("amount", declared, value)
    assert caught.value.where == "inputs.amount"


def test_texts_of_a_csv_file_say_what_they_say() -> None:
    assert input_of_text("number", "1e3") == 1000.0
    assert input_of_text("boolean", "TRUE") is True
    assert input_of_text("number", "") is None
    for declared, text in (("number", "nan"), ("number", "1_000"), ("number", "٣"), ("boolean", "yes")):
        with pytest.raises(InvalidInputError):
            checked_input("x", declared, input_of_text(declared, text))  # type: ignore[arg-type]


def test_one_hot_declares_a_feature_for_each_category_and_one_for_the_rest() -> None:
    @on_demand_view(inputs={"carrier": "text"})
    class Ask:
        carrier = one_hot(request.carrier, ["AA", "B6 x"])
        size = one_hot(request.carrier.lower(), {"small": "s", "large": "l"})

    spec = Ask.spec()
    assert list(spec.features) == [
        "carrier_aa", "carrier_b6_x", "carrier_other", "size_small", "size_large", "size_other",
    ]  # fmt: skip
    assert Ask.carrier_aa == "ask.carrier_aa"
    for given, wanted in (
        ("AA", (1, 0, 0)),
        ("B6 x", (0, 1, 0)),
        ("aa", (0, 0, 1)),
        ("", (0, 0, 1)),
        (None, (0, 0, 0)),
    ):
        found = values(spec, payload({"carrier": given}, {}, datetime(2013, 4, 1, tzinfo=UTC)))
        assert tuple(found[f"ask.carrier_{name}"][0] for name in ("aa", "b6_x", "other")) == wanted


@pytest.mark.parametrize(
    "categories", [[], "AA", ["A", "a"], ["other"], ["é"], {"Big": "b"}, {"x": "a", "y": "a"}, [None], 3]
)
def test_categories_that_make_no_features_are_refused(categories: Any) -> None:
    @on_demand_view(inputs={"carrier": "text"})
    class Ask:
        carrier = one_hot(request.carrier, categories)

    with pytest.raises(InvalidDefinitionsError, match=r"ask\.carrier"):
        Ask.spec()


def test_definitions_without_defaults_keep_their_hash_over_an_upgrade(tmp_path: Path) -> None:
    # As it is with the present fields of gates, levels and rollouts: one more makes a new release of what is unchanged.
    assert content_hash(load(tmp_path)) == "37b06bc770cc62deb624a66034e153e7c88b0ee7b1bfb51d46ad73df632b8713"


def test_a_default_is_part_of_the_version_and_stands_for_what_is_left_out(tmp_path: Path) -> None:
    (bare,) = load(tmp_path).on_demand
    (same,) = load(tmp_path, inputs='{"amount": Input("number"), "shop": "text"}').on_demand
    assert same == bare, "an input without a default is the type alone"
    application = load(tmp_path, inputs='{"amount": Input("number", default=0), "shop": Input("text", default=None)}')
    (view,) = application.on_demand
    assert view.defaults == {"amount": 0.0, "shop": None}
    (other,) = load(tmp_path, inputs='{"amount": Input("number", default=1), "shop": "text"}').on_demand
    assert len({bare.definition_version, view.definition_version, other.definition_version}) == 3
    assert checked_inputs(application, {}) == {"amount": 0.0, "shop": None}
    assert checked_inputs(application, {"amount": 3}) == {"amount": 3.0, "shop": None}
    assert checked_inputs(application, {"amount": None}) == {"amount": None, "shop": None}, "null is said, not left out"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ('Input("number", default="much")', "must be a number, not str"),
        ('Input("instant", default="soon")', "must be an instant"),
        ('Input("color", default=1)', "types are number"),
    ],
)
def test_a_default_that_is_not_of_its_type_is_refused(tmp_path: Path, declared: str, says: str) -> None:
    with pytest.raises(InvalidDefinitionsError, match=says):
        load(tmp_path, inputs=f'{{"amount": {declared}, "shop": "text"}}')


def test_two_views_with_two_defaults_of_one_input_are_refused(tmp_path: Path) -> None:
    first = TEXT.replace("{INPUTS}", '{"amount": Input("number", default=0), "shop": "text"}')
    second = """
@on_demand_view(inputs={"amount": "number"})
class Again:
    twice = on_demand(request.amount * 2)

app = """
    text = first.replace("{RATIO}", RATIO).replace("{MORE}", "").replace("\napp = ", second, 1)
    (tmp_path / "definitions.py").write_text(text.replace("[Spend, Purchase]", "[Spend, Purchase, Again]"))
    with pytest.raises(InvalidDefinitionsError, match="another default in 'again'"):
        project.load(tmp_path)


def test_a_frame_without_the_column_has_the_default(tmp_path: Path) -> None:
    defaults = '{"amount": Input("number", default=12.5), "shop": Input("text", default="it\'s")}'
    (view,) = load(tmp_path, inputs=defaults).on_demand
    stamp = pa.timestamp("us", tz="UTC")
    frame = {
        "at": pa.array([datetime(2013, 4, 1, tzinfo=UTC)], stamp),
        "spend.mean_7d": pa.array([1.5]),
        "spend.shop": pa.array(["it's"]),
    }
    with compute(ComputeLimits()) as connection:
        bare = with_on_demand(connection, pa.table(frame), [view], as_of="at", event_times=False)
        said = {"amount": pa.array([12.5]), "shop": pa.array(["it's"])}
        full = with_on_demand(connection, pa.table(frame | said), [view], as_of="at", event_times=False)
    assert bare.column("purchase.ratio").to_pylist() == full.column("purchase.ratio").to_pylist() == [5.0]
    assert bare.column("purchase.same_shop").to_pylist() == full.column("purchase.same_shop").to_pylist() == [True]
