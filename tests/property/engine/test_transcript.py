from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.execution.sequence import Transcript

texts = st.text(alphabet="ab\n☃é", max_size=30)
stops = st.lists(st.text(alphabet="ab\n☃", min_size=1, max_size=4), max_size=3)


@given(texts, stops, st.lists(st.integers(1, 4), max_size=60))
def test_any_cut_into_pieces_shows_the_text_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    content = text.encode()
    transcript = Transcript(stops)
    shown = ""
    at = 0
    for size in [*cuts, len(content)]:
        transcript.push(content[at : at + size])
        at += size
        released = transcript.text[: transcript.releasable]
        # What was shown never changes.
        assert released.startswith(shown)
        shown = released
    transcript.finish()
    found = [text.index(stop) for stop in stops if stop in text]
    # Fed piece by piece, the stop that is complete first wins; a longer one may begin earlier.
    assert transcript.stopped == bool(found)
    final = transcript.text[: transcript.releasable]
    assert text.startswith(final)
    assert not any(stop in final for stop in stops)
    if not found:
        assert final == text
    assert final.startswith(shown)
