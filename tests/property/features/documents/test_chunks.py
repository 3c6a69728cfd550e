"""Chunks of any text: nothing is lost, none is too long, and the same text gives the same chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.features.documents.chunking import chunks
from antiphon.features.documents.formats import ParsedDocument

WORDS = st.lists(st.text("abcdeé", min_size=1, max_size=12), min_size=1, max_size=12).map(" ".join)
BLOCKS = st.one_of(
    WORDS,
    st.builds(lambda level, words: f"{'#' * level} {words}", st.integers(1, 6), WORDS),
    st.builds(lambda words: f"- {words}", WORDS),
    st.builds(lambda words: f"```\n# {words}\n```", WORDS),
)
DOCUMENTS = st.lists(BLOCKS, max_size=30).map("\n\n".join)


@given(DOCUMENTS, st.booleans(), st.integers(100, 400))
def test_chunks_hold_every_word_and_are_bounded(text: str, marked: bool, size: int) -> None:
    document, spec = ParsedDocument("Title", text, marked), DocumentsSpec(chunk=size, overlap=size // 8)
    found = chunks(document, spec)
    assert found == chunks(document, spec)
    assert [chunk.number for chunk in found] == list(range(1, len(found) + 1))
    said = {word for chunk in found for word in chunk.text.split()}
    body = [line for line in text.split("\n") if not (marked and line.startswith("#"))]
    for word in " ".join(body).split():
        assert word in said or word in ("-", "#", "```") or not any(map(str.isalnum, word))
    for chunk in found:
        assert len(chunk.text.partition("\n\n")[2] or chunk.text) <= size
        assert chunk.text.strip()
