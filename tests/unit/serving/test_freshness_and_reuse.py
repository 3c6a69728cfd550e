from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, START, read_value

from antiphon.catalog.features.snapshot_facts import SnapshotFacts
from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.errors import FeaturesNotReadyError, FeatureUnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Decoding, Freshness, Reuse
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.serving.answering import reuse
from antiphon.serving.answering.generation import GenerationSpec
from antiphon.serving.features import reading
from antiphon.serving.features.printing import fingerprint
from antiphon.serving.features.reading import RequestFeatures

LATER = START + timedelta(hours=1)


def read(contract: Freshness | None = None, **values: FeatureValue) -> RequestFeatures:
    application = msgspec.structs.replace(DESK, freshness={"congestion": contract} if contract else {})
    read = {"congestion.delay": read_value(26.0, START), "weather.wind": read_value(11.0, START)}
    read |= {name.replace("__", "."): value for name, value in values.items()}
    return reading.apply_contracts(FeatureVector(3, read), application, LATER)


def contract_of(found: RequestFeatures, name: str = "congestion.delay") -> str:
    return next(feature.contract for feature in found.features if feature.name == name)


def test_without_a_contract_any_age_is_fresh() -> None:
    found = read()
    assert contract_of(found) == "fresh"
    assert found.prints == {"congestion.delay": "25", "weather.wind": "10"}
    assert found.publication == 3


@pytest.mark.parametrize(("max_age", "contract"), [("60m", "fresh"), ("3599s", "flagged")])
def test_the_limit_itself_is_still_fresh(max_age: str, contract: str) -> None:
    assert contract_of(read(Freshness(max_age))) == contract


def test_a_default_prints_nothing_even_when_it_is_all_there_is() -> None:
    found = read(Freshness("1m", "default"), weather__wind=read_value(None, None))
    assert found.prints == {"congestion.delay": None, "weather.wind": None}
    assert contract_of(found) == "defaulted"
    assert contract_of(found, "weather.wind") == "absent"


def test_rejecting_names_the_feature_its_age_and_the_limit() -> None:
    with pytest.raises(
        FeaturesNotReadyError, match=r"^The feature congestion\.delay is 3600 s old, its contract allows 1m"
    ) as stale:
        read(Freshness("1m", "reject"))
    assert stale.value.of_platform, "no caller makes a value newer"
    with pytest.raises(FeatureUnavailableError, match="has no value") as absent:
        read(Freshness("1m", "reject"), congestion__delay=read_value(None, None))
    assert not absent.value.of_platform


def test_an_entity_nobody_knows_is_refused() -> None:
    with pytest.raises(FeatureUnavailableError, match="no features"):
        read(congestion__delay=read_value(None, None), weather__wind=read_value(None, None))
    with pytest.raises(FeatureUnavailableError, match="no features"):  # a count of no events is a zero
        read(congestion__delay=read_value(0, None), weather__wind=read_value(None, None))


def test_an_application_without_features_reads_nothing() -> None:
    assert reading.apply_contracts(None, DESK, LATER) == reading.NO_FEATURES


STORED = StoredAnswer(
    scope=Scope(), release="rel_1", subject="s", question_hash="q", fingerprint="f", prompt_key="k",
    prediction="pred_1", as_of=START, text_blob="t", finish_reason="stop", classes={}, usage=UsageReceipt(),
    seconds=1.0, origin_path="batch", made_path="batch",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "prints", "minutes", "may"),
    [
        (Reuse("never"), "f", 0, False),
        (Reuse("always"), "other", 10_000, True),
        (Reuse("fingerprint"), "f", 10_000, True),
        (Reuse("fingerprint"), "other", 0, False),
        (Reuse("age", "30m"), "other", 30, True),
        (Reuse("age", "30m"), "f", 31, False),
        (Reuse("age"), "f", 0, False),
    ],
)
def test_what_may_stand_in(rule: Reuse, prints: str, minutes: int, may: bool) -> None:
    assert reuse.may_serve(STORED, rule, prints, START + timedelta(minutes=minutes)) is may


def test_a_question_is_found_by_its_words() -> None:
    assert reuse.question_hash(" Late? ") == reuse.question_hash("Late?") != reuse.question_hash("Windy?")
    assert reuse.question_hash(None) == reuse.question_hash("")


SPEC = GenerationSpec("m", "fp", "prompt", (), Decoding(), "{}", True)


def test_an_answer_without_engine_parameters_is_found_over_an_upgrade() -> None:
    # As it was before there were any: another one would write every stored answer anew.
    assert reuse.prompt_key(SPEC, DESK, fingerprint({"a.b": "1"})) == "b7fc63e1415a7fd8ca9ad5c4fcf01ba7"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"}, {"fingerprint": "fq"}, {"prompt": "other"}, {"messages": (("user", "x"),)},
        {"decoding": Decoding(seed=1)}, {"json_schema": '{"type":"object"}'}, {"branches": False}, {"logprobs": 1},
        {"parameters": '{"top_k":1}'},
    ],
)  # fmt: skip
def test_whatever_decides_the_text_is_in_the_key(change: dict[str, Any]) -> None:
    prints = fingerprint({"a.b": "1"})
    key = reuse.prompt_key(SPEC, DESK, prints)
    assert key != reuse.prompt_key(msgspec.structs.replace(SPEC, **change), DESK, prints)
    assert key != reuse.prompt_key(SPEC, DESK, fingerprint({"a.b": "2"})), "the guard judges by it"
    assert key != reuse.prompt_key(SPEC, msgspec.structs.replace(DESK, guards=()), prints)
    assert key == reuse.prompt_key(SPEC, msgspec.structs.replace(DESK, name="x", reuse=Reuse("never")), prints)


def test_a_contract_may_ask_for_the_quality_of_the_source() -> None:
    contract = Freshness("1d", "default", min_source_quality=0.9)

    def apply(facts: dict[str, SnapshotFacts], contract: Freshness, publication: int | None = 3) -> RequestFeatures:
        application = msgspec.structs.replace(DESK, freshness={"congestion": contract})
        read = {"congestion.delay": read_value(26.0, LATER)}
        return reading.apply_contracts(FeatureVector(publication, read, facts=facts), application, LATER)

    good = facts_of(0.95)
    assert contract_of(apply({"congestion": good}, contract)) == "fresh"
    assert apply({"congestion": good}, contract).features[0].source_quality == 0.95
    poor = {"congestion": facts_of(0.6)}
    assert contract_of(apply(poor, contract)) == "defaulted"
    assert contract_of(apply({}, contract)) == "defaulted"  # nothing is known about it
    assert contract_of(apply({}, contract, publication=None)) == "fresh"  # a dataset's value has no snapshot
    with pytest.raises(
        FeatureUnavailableError,
        match=r"quality of the source of congestion.delay is 60.0%, its contract asks for 90.0%",
    ):
        apply(poor, Freshness("1d", "reject", min_source_quality=0.9))


def facts_of(quality: float) -> SnapshotFacts:
    return SnapshotFacts("snap_1", LATER, LATER, "a file", "hash", quality, 0.0, 0.0, 0.0, 1.0, 10, 3, 0)
