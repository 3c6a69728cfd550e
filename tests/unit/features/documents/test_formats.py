"""Formats of documents, and what is said of bytes that are none."""

from __future__ import annotations

import io

import pypdf
import pytest
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from antiphon.features.documents.formats import FormatError, parse

HTML = """<html><head><title>Gift  cards</title><style>p {}</style></head><body><nav>Home</nav>
<h2>Validity</h2><p>A card is valid for <b>two</b> years,<br>from its purchase.</p>
<ul><li>Keep it.<li>Do not bend it.</ul><script>alert(1)</script><table><tr><td>a<td>b</table></body></html>"""


def test_html_keeps_sections_and_words_and_no_scripts() -> None:
    parsed = parse("cards.html", HTML.encode(), "utf-8")
    assert parsed.title == "Gift cards"
    assert parsed.text.split("\n\n") == [
        "## Validity", "A card is valid for two years,\nfrom its purchase.", "- Keep it.", "- Do not bend it.", "a b",
    ]  # fmt: skip


def test_markdown_and_text_are_kept_and_named() -> None:
    assert parse("a/b.md", b"Intro\n\n# A title #\n\nText", "utf-8").title == "A title"
    text = parse("a/notes.txt", "caf\xe9\r\nbar\x07".encode("latin-1"), "latin-1")
    assert (text.title, text.text, text.marked) == ("notes", "caf\xe9\nbar", False)
    assert parse("a.txt", b"\xff\xfea\x00b\x00", "utf-8").text == "ab"  # by its byte order mark


def leaflet(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for words in pages:
        page = writer.add_blank_page(300, 300)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = StreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({words}) Tj ET".encode())
        page[NameObject("/Contents")] = stream
    writer.add_metadata({"/Title": "A leaflet"})
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def test_a_pdf_is_read_page_by_page() -> None:
    parsed = parse("a.pdf", leaflet("First words.", "Second words."), "utf-8")
    assert (parsed.title, parsed.text) == ("A leaflet", "First words.\n\nSecond words.")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"PK\x03\x04rest", "ZIP archive"),
        ("a.md", b"\x1f\x8brest", "gzip"),
        ("a.txt", b"%PDF-1.7", "it is a PDF"),
        ("a.txt", b"caf\xe9", "it is not utf-8: byte 3"),
        ("a.txt", b"a\x00b", "zero bytes"),
        ("a.pdf", b"hello", "it is no PDF"),
        ("a.pdf", leaflet(""), "its pages may be pictures"),
        ("a.pdf", b"%PDF-1.7 and nothing", "broken"),
        ("a.txt", b"a" * 5_000_001, "more than 5,000,000 characters"),
    ],
)
def test_what_is_no_document_is_said(name: str, content: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        parse(name, content, "utf-8")
