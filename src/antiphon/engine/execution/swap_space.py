"""Swap space for sequences that gave their slot away: states in host memory, beyond a capacity on disk.

Sequences get their slots back in order of arrival, so the oldest states stay in memory and the youngest are written
out. Writing goes on in a thread of its own, because it happens just when an online request has arrived.

A file has no name, and is sealed with a key that never leaves this process: a prompt can be read from a state. So
nothing is left when the process ends, however it ends.
"""

from __future__ import annotations

import logging
import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon.core.errors import EngineError
from antiphon.engine.execution.runtime import SequenceState

CAPACITY_BYTES = 1 << 30
_NONCE_BYTES = 12

_log = logging.getLogger("antiphon.engine")


class SwapSpace:
    """Sequence states by ticket; owned by the step loop's thread.

    Args:
        capacity_bytes: of host memory. More is held only while it is being written, or when the disk takes no more.
        folder: where files are made; the system's folder for temporary files by default.
    """

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES, folder: Path | None = None) -> None:
        self._capacity = capacity_bytes
        self._folder = folder
        self._in_memory: dict[int, SequenceState] = {}
        self._writing: dict[int, tuple[SequenceState, Future[IO[bytes]]]] = {}
        self._on_disk: dict[int, IO[bytes]] = {}
        self._seal = AESGCM(AESGCM.generate_key(bit_length=256))
        self._writer: ThreadPoolExecutor | None = None
        self._disk_is_full = False

    def put(self, ticket: int, state: SequenceState) -> None:
        """Store a state until it is taken or dropped."""
        self._in_memory[ticket] = state
        self._settle()

    def take(self, ticket: int) -> SequenceState:
        """Remove a state and return it; raises ``EngineError`` for one that cannot be read from disk again."""
        self._settle()
        state = self._in_memory.pop(ticket, None)
        file = self._on_disk.pop(ticket, None)
        if state is None and file is not None:
            try:
                with file:
                    file.seek(0)
                    content = file.read()
                state = np.frombuffer(
                    self._seal.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], _name(ticket)), dtype=np.uint8
                )
            except Exception as error:
                raise EngineError("A paused sequence's state cannot be read back from disk.") from error
        assert state is not None
        return state

    def drop(self, ticket: int) -> None:
        """Drop a state; an unknown ticket is ignored."""
        self._settle()
        self._in_memory.pop(ticket, None)
        if (file := self._on_disk.pop(ticket, None)) is not None:
            file.close()

    def close(self) -> None:
        """Drop all states, and wait for the writing thread."""
        if self._writer is not None:
            self._writer.shutdown()
        self._in_memory.clear()
        self._settle()
        for file in self._on_disk.values():
            file.close()
        self._on_disk.clear()

    @property
    def host_bytes(self) -> int:
        """Bytes of states in memory."""
        return sum(state.nbytes for state in self._in_memory.values())

    @property
    def on_disk(self) -> int:
        """States on disk."""
        return len(self._on_disk)

    def _settle(self) -> None:
        """Drop states from memory that have been written meanwhile, and files of states that were taken before that."""
        for ticket in [ticket for ticket, (_, writing) in self._writing.items() if writing.done()]:
            written, writing = self._writing.pop(ticket)
            try:
                file = writing.result()
            except OSError as error:
                self._disk_is_full = True
                _log.warning("Paused sequences stay in memory, beyond %d bytes: %s", self._capacity, error)
                continue
            if self._in_memory.get(ticket) is written:
                del self._in_memory[ticket]
                self._on_disk[ticket] = file
            else:
                file.close()
        self._relieve()

    def _relieve(self) -> None:
        """Write the youngest states to disk, as many as exceed the capacity."""
        excess = self.host_bytes - self._capacity - sum(leaving.nbytes for leaving, _ in self._writing.values())
        for youngest in sorted(self._in_memory, reverse=True):
            if excess <= 0 or self._disk_is_full:
                return
            if youngest not in self._writing:
                leaving = self._in_memory[youngest]
                excess -= leaving.nbytes
                self._writing[youngest] = leaving, self._thread().submit(self._write, youngest, leaving)

    def _write(self, ticket: int, state: SequenceState) -> IO[bytes]:
        nonce = os.urandom(_NONCE_BYTES)
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it stays open, for it has no name
        try:
            file.write(nonce)
            file.write(self._seal.encrypt(nonce, state.tobytes(), _name(ticket)))
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _thread(self) -> ThreadPoolExecutor:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="antiphon-swap-space")
        return self._writer


def _name(ticket: int) -> bytes:
    return ticket.to_bytes(8, "big")
