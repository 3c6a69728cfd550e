import random

from antiphon.serving.answering.guards.sentences import ends, sentences

TEXT = 'It is 5.5 late. "Really?" he asks; Yes! Wait… Then 25 go.\n\nNew part e.g. this. 天気です。明日は雨。Ende'


def test_sentences_are_the_text() -> None:
    assert "".join(sentences(TEXT)) == TEXT
    assert list(sentences("It is 5.5 late. No 3 is. e.g. this")) == ["It is 5.5 late. ", "No 3 is. e.g. this"]


def test_an_end_is_not_taken_back() -> None:
    whole = set(ends(TEXT))
    for end in range(len(TEXT)):
        assert set(ends(TEXT[:end])) <= whole
    rng = random.Random(3)
    for _ in range(2_000):
        text = "".join(rng.choice('aB1 .!?;"\n。') for _ in range(30))
        cut = rng.randrange(30)
        assert set(ends(text[:cut])) <= set(ends(text))
