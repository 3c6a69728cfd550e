"""The process that reads documents: bytes in, chunks out, within bounds of memory and time.

Parsers of strangers' files may take any time and memory. So they run in a child that opens no file, holds no secret and
is ended when a document takes too long; what kills it costs that document alone. Frames are MessagePack behind a
length of four bytes.
"""

from __future__ import annotations

import os
import resource
import selectors
import struct
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import IO

import msgspec

from antiphon.core.child_process import die_with_parent
from antiphon.core.errors import SetupError, UnavailableError
from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.features.documents.chunking import MOST_CHUNKS, Chunk, chunks
from antiphon.features.documents.formats import FormatError, ParsedDocument, parse

MEMORY = 1 << 30
"""Bytes of address space that the child may have."""
SECONDS = 60.0
"""Longest time for one document."""
_LENGTH = struct.Struct("!I")
_PIECE = 1 << 16


class DocumentTask(msgspec.Struct, frozen=True):
    """A document to read: its name, and its bytes or, of a table, its text and title; ``whole`` asks for its text
    instead of chunks."""

    name: str
    content: bytes
    spec: DocumentsSpec
    text: str | None = None
    title: str = ""
    whole: bool = False


class ReadDocument(msgspec.Struct, frozen=True):
    """Title and chunks of a document, or its whole text, or in ``error`` the reason why it has none."""

    title: str = ""
    chunks: tuple[Chunk, ...] = ()
    text: str = ""
    error: str | None = None


class DocumentReader:
    """Reads documents one after the other, in a child that is started when needed. Close it when done.

    Args:
        seconds: longest time for one document. memory: of the child, in bytes.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds = seconds
        self._memory = memory
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DocumentReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def read(self, task: DocumentTask) -> ReadDocument:
        """Read one document; what a parser cannot do is its ``error``. Raises ``SetupError`` without the parsers,
        ``UnavailableError`` when the child cannot be started."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        frame = msgspec.msgpack.encode(task)
        try:
            child.stdin.write(_LENGTH.pack(len(frame)) + frame)
            child.stdin.flush()
            answer = _received(child.stdout, self._seconds)
        except TimeoutError:
            self.close()
            return ReadDocument(error=f"it takes longer than {self._seconds:g} s to read")
        except (EOFError, OSError):
            self.close()
            return ReadDocument(error=f"it cannot be read within {self._memory >> 20} MiB of memory")
        return msgspec.msgpack.decode(answer, type=ReadDocument)

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        child.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = die_with_parent((sys.executable, "-I", "-m", __name__, str(self._memory)))
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        try:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as error:
            raise UnavailableError(
                f"The process that reads documents cannot be started: {error.strerror}.", where="documents"
            ) from error
        self._child = child
        assert child.stdout is not None
        try:
            missing = _received(child.stdout, SECONDS).decode()
        except (EOFError, OSError) as error:
            self.close()
            raise UnavailableError("The process that reads documents ended at its start.", where="documents") from error
        if missing:
            self.close()
            raise SetupError(
                f"Documents need {missing}.",
                where="documents",
                next_step="Install it: `pip install 'antiphon[documents]'`.",
            )
        return child


def _received(stream: IO[bytes], seconds: float) -> bytes:
    """One frame; raises ``TimeoutError``, or ``EOFError`` when the child ends before it."""
    descriptor = stream.fileno()
    with selectors.DefaultSelector() as ready:
        ready.register(descriptor, selectors.EVENT_READ)
        content, needed = b"", _LENGTH.size
        pieces: list[bytes] = []
        have = 0
        for part in ("length", "frame"):
            pieces, have = [], 0
            while have < needed:
                if not ready.select(seconds):
                    raise TimeoutError
                piece = os.read(descriptor, min(_PIECE, needed - have))
                if not piece:
                    raise EOFError
                pieces.append(piece)
                have += len(piece)
            content = b"".join(pieces)
            if part == "length":
                (needed,) = _LENGTH.unpack(content)
    return content


def read_document(task: DocumentTask) -> ReadDocument:
    """Title and chunks of a document; what keeps it from being read is its ``error``."""
    try:
        if task.text is None:
            document = parse(task.name, task.content, task.spec.encoding)
        else:
            document = ParsedDocument(task.title or task.name, task.text.replace("\x00", ""), marked=True)
        if task.whole:
            return ReadDocument(document.title, text=document.text)
        found = chunks(document, task.spec)
    except FormatError as error:
        return ReadDocument(error=str(error))
    except (MemoryError, RecursionError) as error:
        return ReadDocument(error=f"it is too large to be read ({type(error).__name__})")
    except Exception as error:  # whatever a parser raises on a stranger's bytes is this document's fault
        return ReadDocument(error=f"it cannot be read ({type(error).__name__})")
    if len(found) > MOST_CHUNKS:
        return ReadDocument(error=f"it has more than {MOST_CHUNKS:,} chunks")
    return ReadDocument(document.title, tuple(found))


def _serve(memory: int) -> None:
    """Answer frames on standard input until it ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def send(content: bytes) -> None:
        sink.write(_LENGTH.pack(len(content)) + content)
        sink.flush()

    try:
        for module in ("pypdf", "selectolax.lexbor", "semantic_text_splitter"):
            import_module(module)
    except ImportError as error:
        send(str(error.name).encode())
        return
    for limit, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    send(b"")
    while len(length := source.read(_LENGTH.size)) == _LENGTH.size:
        task = msgspec.msgpack.decode(source.read(_LENGTH.unpack(length)[0]), type=DocumentTask)
        send(msgspec.msgpack.encode(read_document(task)))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
