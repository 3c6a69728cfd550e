"""Questions about tokens that are too long to be answered."""

import pytest

from antiphon.core.errors import TooLarge
from antiphon.engine.messages import Tokenise
from antiphon.engine.reading import MOST_TEXT_BYTES, MOST_TOKENS, require_readable


@pytest.mark.parametrize(
    ("question", "where"),
    [
        (Tokenise("t", "m", "x" * (MOST_TEXT_BYTES + 1)), "prompt"),
        (Tokenise("t", "m", "ç" * (MOST_TEXT_BYTES // 2 + 1)), "prompt"),
        (Tokenise("t", "m", tokens=(1,) * (MOST_TOKENS + 1)), "tokens"),
    ],
)
def test_what_would_take_too_long_is_refused_with_its_bound(question: Tokenise, where: str) -> None:
    with pytest.raises(TooLarge) as refused:
        require_readable(question)
    assert refused.value.where == where
    assert refused.value.next_step


def test_what_is_just_short_enough_is_read() -> None:
    require_readable(Tokenise("t", "m", "ç" * (MOST_TEXT_BYTES // 2)))
    require_readable(Tokenise("t", "m", tokens=(1,) * MOST_TOKENS))
