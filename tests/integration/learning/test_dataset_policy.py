"""What may not be learned from is left out of datasets, counted by reason, and said when a rebuild differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.integration.features.world import NOON
from tests.integration.learning.flown import Flown

from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.document import default_document
from antiphon.governance.policy.engine import Decider, Resource
from antiphon.governance.policy.request import PolicyRow
from antiphon.governance.policy.residual import RowPolicy
from antiphon.learning.datasets.builder import DatasetBuilder

RULE = """
@id("opted-out") forbid (principal, action == Action::"train", resource)
when { resource.hasTag("origin") && resource.getTag("origin") like "EW*" };
"""
TRAINING = Principal("training", "default", "engineer", clearance="restricted")


@pytest.fixture
def flown(tmp_path: Path) -> Iterator[Flown]:
    flown = Flown(tmp_path)
    yield flown
    flown.close()


def builder(flown: Flown, policies: str) -> DatasetBuilder:
    decider = Decider(default_document().cedar + policies)

    def withheld(
        scope: Scope, application: str, keys: Sequence[str], rows: Sequence[tuple[Sequence[str], int]]
    ) -> tuple[str, Sequence[str | None]]:
        policy = RowPolicy(decider, TRAINING, "train", Resource("application", application), keys, {})
        assert policy.outside is None
        asked = [PolicyRow(dict(zip(keys, entity, strict=True)), moment) for entity, moment in rows]
        return decider.digest, [None if said.allowed else said.reason for said in policy.decide(asked)]

    rows = dataclasses.replace(flown.builder.rows, withheld=withheld)
    return dataclasses.replace(flown.builder, rows=rows)


def test_withheld_examples_are_counted_and_named(flown: Flown) -> None:
    open_to_all, closed = builder(flown, ""), builder(flown, RULE)
    spec = open_to_all.plan(flown.application, cutoff=NOON, examples=1_000)
    whole, less = open_to_all.survey(spec), closed.survey(spec)
    left_out = less.dropped["policy: opted-out"]
    assert 0 < left_out < whole.rows + sum(whole.dropped.values())
    assert less.rows < whole.rows
    assert not any(name.startswith("policy") for name in whole.dropped)
    dataset = closed.build(spec)
    assert {row["origin"] for row in flown.rows(dataset.path)} == {"LGA"}
    named = [source for source in dataset.sources if source.kind == "policy"]
    assert [(source.name, source.rows) for source in named] == [("policy", left_out)]
    assert closed.rebuild(dataset.id).logical_hash == dataset.logical_hash
    with pytest.raises(ConflictError, match="policy"):
        open_to_all.rebuild(dataset.id)
