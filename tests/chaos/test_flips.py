"""Flips of the live pointer under load, short; and that a mixed answer or a late one would be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.learning import flips
from benchmarks.learning.flips import MARKS, Asked, Flip
from tests.chaos.harness.running import scratch
from tests.unit.catalog.examples import NOON, receipt

from antiphon.catalog.serving.receipt import Attempt, FeatureReceipt

IDS = {"rel_a": "alpha", "rel_b": "beta"}
TEXT = '{"first": "alpha", "words": "it is", "last": "alpha"}'
PROMPT = "You are alpha.\n\nalpha has 120. Question 1.2?"


@pytest.mark.chaos
async def test_ten_flips_under_load(tmp_path: Path) -> None:
    with scratch() as folder:
        found = await flips.measure(Path(folder), 10, 4, 20130410)
    assert found["holds"], json.dumps(found)
    assert found["requests"] > 100
    assert found["flips_with_requests_under_way"] >= 5, "the flips met no requests"


def asked(**fields: Any) -> Asked:
    given = {"began": 1.0, "ended": 1.1, "streamed": True, "text": TEXT, "release": "rel_a", "prediction": "p"}
    return Asked(**(given | fields))


def kept(release: str = "rel_a", model: str = "alpha", printed: str = MARKS["alpha"]) -> Any:
    attempt = Attempt("p", "t", 0, 0.0, 1.0, 9, (), None, model, "f", (1,), "stop")
    feature = FeatureReceipt("summed.amount", 123, printed, "v", "s", NOON, 1.0, "fresh")
    return receipt("p", release=release, attempts=(attempt,), features=(feature,))


def test_an_answer_of_one_release_is_not_mixed() -> None:
    assert flips.mixed(asked(), kept(), [PROMPT], IDS) is None


@pytest.mark.parametrize(
    ("answer", "written", "prompt"),
    [
        (asked(text=TEXT.replace('"last": "alpha"', '"last": "beta"')), kept(), PROMPT),
        (asked(text=TEXT.replace("it is", "beta")), kept(), PROMPT),
        (asked(text=TEXT.replace("alpha", "beta")), kept(), PROMPT),
        (asked(text=TEXT[:-9]), kept(), PROMPT),
        (asked(release="rel_b"), kept(), PROMPT),
        (asked(release="rel_c"), kept(), PROMPT),
        (asked(), kept(release="rel_b"), PROMPT),
        (asked(), kept(model="beta"), PROMPT),
        (asked(), msgspec.structs.replace(kept(), attempts=()), PROMPT),
        (asked(), kept(printed=MARKS["beta"]), PROMPT),
        (asked(), kept(), PROMPT.replace("You are alpha", "You are beta")),
        (asked(), kept(), PROMPT.replace("120", "100")),
    ],
)
def test_a_mixed_answer_is_found(answer: Asked, written: Any, prompt: str) -> None:
    assert flips.mixed(answer, written, [prompt], IDS) is not None


def test_the_last_request_on_the_old_release_is_found() -> None:
    moves = [Flip("activate", "alpha", "beta", 9.99, 10.0), Flip("rollback", "beta", "alpha", 11.0, 11.01)]
    answers = [
        asked(began=9.9, ended=10.3),  # sent before the commit
        asked(began=10.1, ended=10.2),
        asked(began=10.24, ended=10.3),
        asked(began=10.3, ended=10.4, release="rel_b"),
        asked(began=10.5, ended=10.6, failure="ReadTimeout"),
        asked(began=10.98, ended=11.2),  # under way at the next flip, which leads to its release
        asked(began=11.1, ended=11.2, release="rel_b"),
    ]
    assert flips.lags(moves, answers, IDS) == pytest.approx([0.24, 0.09])
    assert flips.lags(moves, answers[:1], IDS) == [0.0, 0.0]
