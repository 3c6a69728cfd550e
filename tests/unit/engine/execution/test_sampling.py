import numpy as np
import pytest

from antiphon.engine.api.messages import Penalties
from antiphon.engine.execution import sampling


def test_greedy_takes_the_lowest_id_among_equals_and_obeys_the_mask() -> None:
    logits = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    assert sampling.greedy(logits, None) == 1
    assert sampling.greedy(logits, np.array([True, False, False, True])) == 3
    assert sampling.greedy(logits, np.array([True, False, True, True])) == 2


def test_draws_follow_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    generator = sampling.generator_for(7)
    counts = np.bincount([sampling.draw(logits, None, 1.0, 1.0, generator) for _ in range(4000)], minlength=3)
    assert np.allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_temperature_sharpens() -> None:
    logits = np.log(np.array([0.6, 0.4], dtype=np.float32))
    generator = sampling.generator_for(7)
    cold = sum(sampling.draw(logits, None, 0.1, 1.0, generator) for _ in range(500))
    assert cold < 25  # (0.4/0.6)^10 is about 0.017.


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], dtype=np.float32))
    generator = sampling.generator_for(1)
    drawn = {sampling.draw(logits, None, 1.0, 0.7, generator) for _ in range(300)}
    assert drawn == {1, 3}
    assert {sampling.draw(logits, None, 1.0, 0.4, generator) for _ in range(50)} == {1}


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = np.array([5.0, 0.0, 0.0], dtype=np.float32)
    permitted = np.array([False, True, True])
    generator = sampling.generator_for(1)
    assert {sampling.draw(logits, permitted, 1.0, top_p, generator) for top_p in (1.0, 0.9) for _ in range(50)} == {
        1,
        2,
    }


def test_the_same_seed_gives_the_same_draws() -> None:
    logits = np.zeros(50, dtype=np.float32)

    def draws(seed: int) -> list[int]:
        generator = sampling.generator_for(seed)
        return [sampling.draw(logits, None, 1.0, 1.0, generator) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(-1) == draws(0xFFFF_FFFF_FFFF_FFFF)


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_most_probable_agrees_with_a_stable_sort(count: int) -> None:
    logits = np.array([1, 5, 5, 2, 5, 0], dtype=np.float32)
    expected = [int(token) for token in np.argsort(-logits, kind="stable")[:count]]
    assert sampling.most_probable(logits, count) == expected


def test_log_probabilities_sum_to_one() -> None:
    logits = np.random.default_rng(0).normal(0, 9, 1000).astype(np.float32)
    normalizer = sampling.log_normalizer(logits)
    assert np.isclose(np.exp(logits.astype(np.float64) - normalizer).sum(), 1.0, atol=1e-5)


def test_penalties_are_openais_formula_and_leave_the_logits_as_they_were() -> None:
    logits = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
    changed = sampling.adjusted(logits, Penalties(0.5, 0.25, ((0, 10.0), (3, -1.0))), {2: 3, 3: 1})
    assert changed.tolist() == [11.0, 2.0, 3.0 - (3 * 0.5 + 0.25), 4.0 - 1.0 - (0.5 + 0.25)]
    assert logits.tolist() == [1.0, 2.0, 3.0, 4.0]
