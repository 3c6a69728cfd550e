"""The reading process: bounds of time and memory, and a child that is killed, cost one document."""

from __future__ import annotations

import io
import os
import signal
import zlib

import pypdf
from pypdf.generic import DecodedStreamObject, NameObject, NumberObject

from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.features.documents.reading_process import DocumentReader, DocumentTask

SPEC = DocumentsSpec()


def task(name: str, content: bytes) -> DocumentTask:
    return DocumentTask(name, content, SPEC)


def bomb() -> bytes:
    """A PDF of a megabyte whose page is a gigabyte of instructions."""
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(72, 72)
    packer = zlib.compressobj(9)
    piece = b"BT (x) Tj ET\n" * 100_000
    packed = b"".join(packer.compress(piece) for _ in range(800)) + packer.flush()
    stream = DecodedStreamObject()
    stream.set_data(packed)
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    stream[NameObject("/Length")] = NumberObject(len(packed))
    page[NameObject("/Contents")] = writer._add_object(stream)
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def test_a_document_is_read_and_the_next_one_too() -> None:
    with DocumentReader() as reader:
        first = reader.read(task("a.md", b"# Title\n\nWords."))
        assert (first.title, [chunk.text for chunk in first.chunks]) == ("Title", ["# Title\n\nWords."])
        assert reader.read(task("b.txt", b"a\xff")).error == "it is not utf-8: byte 1 begins no character"
        assert reader.read(task("c.txt", b"More words.")).chunks[0].text == "c\n\nMore words."
        assert reader.read(task("d.txt", b" ")).chunks == ()


def test_a_decompression_bomb_is_bounded() -> None:
    content = bomb()
    assert len(content) < 3 << 20
    with DocumentReader(seconds=20) as reader:
        found = reader.read(task("bomb.pdf", content))
        assert found.error is not None
        assert reader.read(task("a.txt", b"Words.")).error is None


def test_a_parser_that_takes_too_long_is_ended() -> None:
    with DocumentReader(seconds=3) as reader:
        found = reader.read(task("deep.html", b"<div>" * 100_000))
        assert found.error == "it takes longer than 3 s to read"
        assert reader.read(task("a.txt", b"Words.")).error is None


def test_a_child_that_is_killed_costs_its_document_alone() -> None:
    with DocumentReader() as reader:
        reader.read(task("a.txt", b"Words."))
        child = reader._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert reader.read(task("b.txt", b"Words.")).error is not None
        assert reader.read(task("c.txt", b"Words.")).error is None
    assert child.poll() is not None
