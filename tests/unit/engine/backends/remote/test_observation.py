from __future__ import annotations

from typing import Any

import msgspec
import pytest

from antiphon.engine.backends.remote.observation import (
    PROMPTS,
    TOLERANCE,
    ModelObservation,
    difference,
    joined,
    listed_facts,
    token_logprobs,
    unit_vector,
)

SEEN = ModelObservation(
    {"root": "org/model", "owned_by": "vllm"},
    "fp_1",
    {PROMPTS[0]: {" Paris": -0.2, " the": -2.0}, PROMPTS[1]: {" a": -0.1}},
)


def but(**fields: Any) -> ModelObservation:
    return msgspec.structs.replace(SEEN, **fields)


def shifted(by: float) -> dict[str, dict[str, float]]:
    return {prompt: {token: value - by for token, value in one.items()} for prompt, one in SEEN.first_tokens.items()}


@pytest.mark.parametrize(
    "now",
    [
        SEEN,
        but(system_fingerprint="fp_2"),  # One of several servers behind the URL, which have the same weights.
        but(first_tokens=shifted(0.9 * TOLERANCE)),
        but(listed={}),
        but(listed=SEEN.listed | {"max_model_len": "8192"}),
        but(first_tokens=SEEN.first_tokens | {"A prompt of a newer release": {" x": -1.0}}),
    ],
)
def test_it_is_the_same_model(now: ModelObservation) -> None:
    assert difference(SEEN, now) is None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (but(first_tokens=shifted(1.1 * TOLERANCE)), "nats apart"),
        (but(first_tokens={PROMPTS[0]: {" Rome": -0.2, " the": -2.0}}), "nats apart"),
        (but(listed={"root": "org/other"}), "its root is org/other, it was org/model"),
        (but(first_tokens={}), "no log-probabilities any more"),
    ],
)
def test_it_is_another_one(now: ModelObservation, said: str) -> None:
    assert said in str(difference(SEEN, now))


def test_without_log_probabilities_the_system_fingerprint_decides() -> None:
    before = but(first_tokens={})
    assert difference(before, but(first_tokens={}, system_fingerprint="fp_2")) == (
        "its system fingerprint is fp_2, it was fp_1"
    )
    by_name = but(first_tokens={}, system_fingerprint=None)
    assert by_name.evidence == "name only"
    assert difference(by_name, before) is None
    assert (joined(by_name, SEEN).evidence, before.evidence) == ("log-probabilities", "system fingerprint")


def test_many_small_steps_do_not_lead_far_away() -> None:
    known = SEEN
    for step in (0.6, 1.2):
        now = but(first_tokens=shifted(step * TOLERANCE))
        if difference(known, now) is None:
            known = joined(known, now)
    assert known == SEEN
    assert difference(known, but(first_tokens=shifted(1.2 * TOLERANCE))) is not None


def test_a_vector_of_another_direction_or_length_is_another_model() -> None:
    before = ModelObservation(vector=unit_vector((3.0, 4.0)))
    assert before.vector == (0.6, 0.8)
    assert difference(before, ModelObservation(vector=unit_vector((3.001, 4.0)))) is None
    assert "cosine" in str(difference(before, ModelObservation(vector=unit_vector((4.0, 3.0)))))
    assert "cosine" in str(difference(before, ModelObservation(vector=unit_vector((3.0, 4.0, 0.0)))))
    assert unit_vector((0.0, 0.0)) == unit_vector((float("inf"), 1.0)) == ()


def test_what_servers_list_and_what_is_kept_of_it() -> None:
    vllm = {"id": "m", "created": 1_764_000_000, "owned_by": "vllm", "root": "org/m", "parent": None, "permission": [1]}
    assert listed_facts(vllm) == {"owned_by": "vllm", "root": "org/m"}
    llama_cpp = {"id": "m", "owned_by": "llamacpp", "meta": {"n_params": 7, "size": 9, "vocab_type": 1}}
    assert listed_facts(llama_cpp) == {"owned_by": "llamacpp", "n_params": "7", "size": "9"}


def test_log_probabilities_that_say_nothing_are_left_out() -> None:
    assert token_logprobs({"a": -9999.0, "b": None, "c": float("nan"), "d": -0.123456}) == {"a": -20.0, "d": -0.1235}
