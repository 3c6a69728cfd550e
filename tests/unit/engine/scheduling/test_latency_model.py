import random

from antiphon.engine.scheduling.latency_model import LatencyModel


def taught(model: LatencyModel, calls: int, *, slower: float = 1.0, noise: float = 0.0, seed: int = 1) -> LatencyModel:
    """The model after calls of all shapes that cost what :func:`feed` and :func:`decode` say."""
    chance = random.Random(seed)
    for _ in range(calls):
        tokens, context, sequences = chance.choice((32, 32, 7)), chance.randrange(400), chance.randrange(1, 17)
        model = model.observe_feed(tokens, context, slower * feed(tokens, context) * (1 + noise * chance.gauss(0, 1)))
        read = sequences * context
        model = model.observe_decode(
            sequences, read, slower * decode(sequences, read) * (1 + noise * chance.gauss(0, 1))
        )
    return model


def feed(tokens: int, context: int) -> float:
    return 0.001 + 0.0021 * tokens + 0.0003 * tokens * context / 1000


def decode(sequences: int, context: int) -> float:
    return 0.005 + 0.0032 * sequences + 0.0008 * context / 1000


def test_it_learns_what_calls_cost() -> None:
    model = taught(LatencyModel(), 200)
    for tokens, context in ((32, 0), (32, 700), (5, 100)):
        assert abs(model.feed(tokens, context) - feed(tokens, context)) < 0.03 * feed(tokens, context)
    for sequences, context in ((1, 100), (8, 2000), (16, 6000)):
        assert abs(model.decode(sequences, context) - decode(sequences, context)) < 0.03 * decode(sequences, context)
    assert model.feed(0, 100) == model.decode(0, 0) == 0


def test_it_is_warm_after_fifty_calls_of_each_kind() -> None:
    model = taught(LatencyModel(), 50, slower=6.0, noise=0.05)
    assert abs(model.decode(8, 2000) / (6 * decode(8, 2000)) - 1) < 0.1
    assert abs(model.feed(32, 200) / (6 * feed(32, 200)) - 1) < 0.1


def test_it_follows_a_machine_that_becomes_slower_and_forgets_one_pause() -> None:
    model = taught(LatencyModel(), 300)
    paused = model.observe_decode(8, 1000, 3.0)
    assert paused.decode(8, 1000) < 1.3 * model.decode(8, 1000)
    slower = taught(model, 150, slower=2.0)
    assert abs(slower.decode(8, 1000) / (2 * decode(8, 1000)) - 1) < 0.05


def test_it_stays_stable_when_one_shape_is_all_there_is() -> None:
    model = taught(LatencyModel(), 100)
    before = model.decode(2, 300)
    for _ in range(20_000):
        model = model.observe_decode(16, 4000, decode(16, 4000))
    assert abs(model.decode(16, 4000) / decode(16, 4000) - 1) < 0.01
    assert abs(model.decode(2, 300) / before - 1) < 0.3
    assert all(weight >= 0 for weight in model.decoding.weights)


def test_nine_of_ten_calls_stay_below_the_upper_prediction() -> None:
    model = taught(LatencyModel(), 2_000, noise=0.1)
    chance = random.Random(7)
    inside = 0
    for _ in range(1_000):
        seconds = decode(8, 1000) * (1 + 0.1 * chance.gauss(0, 1))
        inside += seconds <= model.decode(8, 1000) * model.decoding.excess
    assert 850 <= inside <= 960
