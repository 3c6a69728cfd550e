import random

import pytest

from antiphon.engine.backends.vllm.forward_model import ForwardModel, ForwardPass


def seconds(forward: ForwardPass) -> float:
    """A machine on which a pass costs 30 ms, a sequence 1 ms, a prompt's token 0.8 ms."""
    return (
        0.030
        + 0.001 * forward.sequences
        + 0.002 * forward.context / 1000
        + 0.0008 * forward.prompt_tokens
        + 0.0004 * forward.prompt_context / 1000
    )


def passes(count: int) -> list[ForwardPass]:
    chance = random.Random(2)
    found = []
    for _ in range(count):
        sequences = chance.randrange(1, 17)
        prompt = chance.choice([0, 0, 0, 32, 64, 256])
        found.append(
            ForwardPass(sequences, sequences * chance.randrange(50, 400), prompt, prompt * chance.randrange(200))
        )
    return found


def test_it_learns_what_a_pass_costs_and_what_is_added_to_it() -> None:
    model, chance = ForwardModel(), random.Random(3)
    for forward in passes(200):
        model = model.observe(forward, seconds(forward) * chance.lognormvariate(0.0, 0.03))
    off = [abs(model.predict(forward) / seconds(forward) - 1) for forward in passes(50)]
    assert max(off) < 0.1
    assert model.step == pytest.approx(0.030, rel=0.15)
    assert model.feed(64, 0) == pytest.approx(0.0512, rel=0.15)


def test_what_it_says_of_a_pass_is_the_sum_of_its_parts() -> None:
    model = ForwardModel()
    parts = model.step + model.decode(3, 300) + model.feed(32, 0) + model.feed(16, 100)
    assert model.predict(ForwardPass(3, 300, 48, 1600)) == pytest.approx(parts)


def test_a_pass_quicker_than_its_tokens_alone_makes_prompts_free_and_never_a_gain() -> None:
    model = ForwardModel()
    for _ in range(30):
        model = model.observe(ForwardPass(2, 100, 64, 0), 0.001)
    assert model.feed(64, 0) >= 0.0
