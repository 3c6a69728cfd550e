"""Records on their way to Redis: scripts sent one after the other, whose answers are taken while others still are.

A client packs commands an argument at a time, which takes it longer than the server needs to store them. Here a
script's request (RESP, the Redis serialisation protocol) is put together from what all its records have in common.

Invariant: a connection that broke off or still owes answers is never used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from antiphon.features.online.redis.server import RedisServer


class Scripts:
    """:meth:`send` scripts, then :meth:`finish`; :meth:`drop` otherwise. Use all of them inside ``answering``.

    Args:
        under_way: so many are sent before the first answer is waited for.
    """

    def __init__(self, server: RedisServer, under_way: int) -> None:
        self._server = server
        self._under_way = under_way
        self._pool: Any = None
        self._connection: Any = None
        self._owed = 0

    def send(self, request: bytes) -> bool:
        """Send a script; whether those that answered meanwhile succeeded. Raises what the client does."""
        try:
            if self._connection is None:
                self._pool = self._server.bulk.connection_pool
                self._connection = self._pool.get_connection()
            self._connection.send_packed_command([request])
            self._owed += 1
            return self._answered(self._under_way - 1)
        except BaseException:
            self.drop()
            raise

    def finish(self) -> bool:
        """Wait for every answer; whether all succeeded."""
        try:
            succeeded = self._answered(0)
        except BaseException:
            self.drop()
            raise
        self._release()
        return succeeded

    def drop(self) -> None:
        """Let go of the connection, whatever it still owes."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection.disconnect()
        self._owed = 0
        self._release()

    def _answered(self, left: int) -> bool:
        succeeded = True
        while self._owed > left:
            answer = self._connection.read_response()
            self._owed -= 1
            succeeded = succeeded and bool(answer)
        return succeeded

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


def packed_script(
    script: str, keys: Sequence[bytes], first: bytes, prefix: bytes, names: Sequence[bytes], values: Sequence[bytes]
) -> bytes:
    """The request of a script over keys, given ``first`` and then a name and a value for each record.

    Args:
        prefix: what each name begins with.
    """
    parts = (b"EVAL", script.encode(), b"%d" % len(keys), *keys, first)
    heads = {length: b"$%d\r\n%b" % (len(prefix) + length, prefix) for length in set(map(len, names))}
    return b"".join(
        [
            b"*%d\r\n" % (len(parts) + 2 * len(names)),
            *[b"$%d\r\n%b\r\n" % (len(part), part) for part in parts],
            *[
                b"%b%b\r\n$%d\r\n%b\r\n" % (heads[len(name)], name, len(value), value)
                for name, value in zip(names, values, strict=True)
            ],
        ]
    )
