"""Every path that reads features withholds the same values: answers, lookups, vectors, training sets and datasets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pyarrow
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.small_desk import ASKER, DESK, SCOPE, START, read_value

from antiphon.catalog.features.snapshot_facts import SnapshotFacts
from antiphon.core.clock import ManualClock, microseconds
from antiphon.core.errors import FeatureUnavailableError
from antiphon.definitions.application import Freshness
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.embedding.vector_reader import TextVector, VectorRows
from antiphon.features.exports.frames import with_contracts
from antiphon.features.freshness import SnapshotQuality
from antiphon.features.online.lookup import FeatureRows
from antiphon.features.values import EntityRow, FeatureVector, oldest_of
from antiphon.governance.policy.request import Decision, Resource
from antiphon.serving.features.lookup import FeatureLookup
from antiphon.serving.features.lookup_values import DerivedFeatures, LookupPlan, LookupRequest
from antiphon.serving.features.reading import apply_contracts

NOW = START + timedelta(days=1)
MODEL = EmbeddingModel("tiny", "0", 1, 8)


class Snapshot(SimpleNamespace):
    """What a lookup needs of an opened snapshot."""

    __hash__ = object.__hash__


class Read(NamedTuple):
    """One value as it is read: its age in seconds (``None``: of no event) and its source's quality."""

    value: float | None
    age: int | None
    quality: float | None


contracts = st.builds(
    Freshness,
    max_age=st.sampled_from(["5s", "10s", "1m"]),
    when_stale=st.sampled_from(["reject", "flag", "default", "previous", "recompute"]),
    min_source_quality=st.sampled_from([0.0, 0.5, 0.9]),
    otherwise=st.sampled_from(["reject", "flag", "default"]),
)
reads = st.builds(
    Read,
    st.sampled_from([None, 1.0]),
    st.sampled_from([None, 0, 4, 5, 6, 10, 11, 60, 61]),
    st.sampled_from([None, 0.0, 0.5, 0.7, 0.9, 1.0]),
)


def expected(contract: Freshness, read: Read, *, snapshot: bool = True) -> str:
    """The contract's meaning, from its documentation."""
    if read.value is None:
        return "absent"
    limit = {"5s": 5, "10s": 10, "1m": 60}[contract.max_age]
    old = read.age is not None and read.age > limit
    poor = snapshot and contract.min_source_quality > 0 and (read.quality or 0.0) < contract.min_source_quality
    if not old and not poor:
        return "fresh"
    action = contract.otherwise if contract.when_stale in ("previous", "recompute") else contract.when_stale
    return {"flag": "flagged", "default": "defaulted", "reject": "rejected"}[action]


def facts(quality: float | None) -> SnapshotFacts:
    return SnapshotFacts("snap", NOW, NOW, "file", "hash", quality, 0.0, 0.0, 0.0, 1.0, 1, 1, 0)


def answered(contract: Freshness, read: Read, *, snapshot: bool = True) -> str:
    """Outcome in an answer's receipt; without a snapshot that of a dataset's row, in training and evaluation."""
    event_time = None if read.age is None else NOW - timedelta(seconds=read.age)
    values = {"congestion.delay": read_value(read.value, event_time), "weather.wind": read_value(1.0, NOW)}
    vector = FeatureVector(
        1 if snapshot else None, values, facts={"congestion": facts(read.quality)} if snapshot else {}
    )
    application = msgspec.structs.replace(DESK, freshness={"congestion": contract})
    try:
        found = apply_contracts(vector, application, NOW)
    except FeatureUnavailableError as error:
        return "absent" if "has no value" in str(error) else "rejected"
    (receipt,) = (one for one in found.features if one.name == "congestion.delay")
    withheld = receipt.value is None and read.value is not None
    assert withheld is (receipt.contract in ("defaulted", "rejected"))
    return receipt.contract


def looked_up(contract: Freshness, read: Read) -> tuple[str, str]:
    """Outcomes of a number and of a vector in a lookup."""
    event_time = None if read.age is None else NOW - timedelta(seconds=read.age)
    time = None if event_time is None else microseconds(event_time)
    opened = SimpleNamespace(meta=SimpleNamespace(facts=facts(read.quality)))
    rows: Any = Snapshot(
        view="a", names=("a.x",), opened=opened, snapshot="snap", definition_version="v", made_as_of=NOW
    )
    row = EntityRow((read.value,), (time,), None, 0, 2**62, oldest_of((read.value,), (time,)))
    vector = None if read.value is None else (read.value,)
    found = VectorRows(
        1, [{"b.text": TextVector(vector, MODEL, event_time, "snap", None, "v")}], {}, {"b": read.quality}
    )
    view: Any = SimpleNamespace(models={"text": MODEL})
    lookup = FeatureLookup(
        cast(Any, lambda scope: SimpleNamespace(rows=lambda *given: FeatureRows(1, ((rows, [row]),)))),
        lambda *asked: Decision(True, (), ""),
        ManualClock(NOW),
        vectors=cast(Any, lambda scope: SimpleNamespace(rows=lambda *given, only: found)),
    )
    plan = LookupPlan(
        Resource("application", "a"),
        {"a": "v"},
        {"a": None},
        {"a": contract, "b": contract},
        derived=DerivedFeatures(("a.x", "b.text"), {"b": (view, ("b.text",))}),
    )
    (line,) = lookup.look_up_now(LookupRequest(SCOPE, ASKER, plan, [{"k": "1"}], as_of=NOW)).entities
    for value, outcome in zip(line.values, line.contracts, strict=True):
        assert (value is None) is (read.value is None or outcome in ("defaulted", "rejected"))
    return line.contracts[0], line.contracts[1]


def trained(contract: Freshness, read: Sequence[Read], qualities: Sequence[SnapshotQuality]) -> list[float | None]:
    """Values of a training set, all of one moment."""
    instant = pyarrow.timestamp("us", tz="UTC")
    times = [None if one.age is None else NOW - timedelta(seconds=one.age) for one in read]
    table = pyarrow.table(
        {
            "a.x": pyarrow.array([one.value for one in read], pyarrow.float64()),
            "a.x.event_time": pyarrow.array(times, instant),
        }
    )
    moments = pyarrow.chunked_array([pyarrow.array([NOW] * len(read), instant)])
    view: Any = SimpleNamespace(features=("x",))
    made = with_contracts(table, moments, {"a": view}, {"a": contract}, lambda spec: qualities)
    return list(made.column("a.x").to_pylist())


@given(contracts, reads)
def test_every_path_holds_a_value_to_its_contract_alike(contract: Freshness, read: Read) -> None:
    outcome = expected(contract, read)
    assert answered(contract, read) == outcome
    assert looked_up(contract, read) == (outcome, outcome)
    quality = [
        SnapshotQuality(NOW + timedelta(seconds=1), 1.0),
        SnapshotQuality(NOW, read.quality),
        SnapshotQuality(NOW - timedelta(days=1), 1.0),
    ]
    kept = None if outcome in ("defaulted", "rejected") else read.value
    assert trained(contract, [read], quality) == [kept]


@given(contracts, st.lists(reads, min_size=1, max_size=5))
def test_rows_without_a_snapshot_are_held_to_their_age(contract: Freshness, read: list[Read]) -> None:
    outcomes = [expected(contract, one, snapshot=False) for one in read]
    assert [answered(contract, one, snapshot=False) for one in read] == outcomes
    later = [SnapshotQuality(NOW + timedelta(microseconds=1), 0.0)]
    kept = [
        None if outcome in ("defaulted", "rejected") else one.value for one, outcome in zip(read, outcomes, strict=True)
    ]
    assert trained(contract, read, ()) == kept
    assert trained(contract, read, later) == kept
