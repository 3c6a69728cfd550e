"""Builds a sealed snapshot in Redis: writes records in batches that no reader sees, and seals it in one step.

Scripts are sent one after the other, and their answers are taken while others still are under way. A client packs
commands an argument at a time, which takes it longer than the server needs to store them; here a script's request
(RESP, the Redis serialization protocol) is put together from what all its records have in common.

Invariant: a connection that broke off or still owes answers is never used again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import compress
from typing import Any

from antiphon.core.codec import Codec, PayloadContext
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.features.online.ciphers import new_cipher
from antiphon.features.online.redis.layout import (
    BUILDING_MILLISECONDS,
    LAYOUT,
    ROWS,
    SEAL,
    WRITE,
    BuildSeal,
    SnapshotKeys,
    builds_key,
    decode_seal,
    encode_seal,
)
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.snapshots.encoding import FORMAT, META, ROW, SnapshotMeta, encode, row_key


class Scripts:
    """:meth:`send` scripts, then :meth:`finish`; :meth:`drop` otherwise. Use all of them inside ``answering``.
    ``under_way``: so many are sent before the first answer is waited for."""

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
    """The request of a script over keys, given ``first`` and then a name and a value for each record. ``prefix``: what
    each name begins with."""
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


HASH = 16
"""Bytes of an entity's hash, with which a record's key begins."""
_SCHEMA = "online-redis/1"
_BATCH_BYTES = 1_000_000
_BATCH_VALUES = 1_000
_UNDER_WAY = 4
"""So many batches are sent before the first answer is waited for."""


class RedisWriter:
    """Builds one snapshot. Call :meth:`write`, then :meth:`seal`; :meth:`discard` otherwise."""

    joins = False

    def __init__(self, server: RedisServer, place: SnapshotKeys, meta: SnapshotMeta, codec: Codec) -> None:
        self._server = server
        self._place = place
        self._build = secrets.token_hex(8)
        self._cipher, self._key = new_cipher(codec, key_context(place))
        self._meta = meta
        self._scripts = Scripts(server, _UNDER_WAY)
        self._digest = Digest()
        with server.answering():
            pipeline = server.bulk.pipeline(transaction=True)
            pipeline.hset(builds_key(place.scope), place.field(self._build), b"")
            pipeline.set(place.building(self._build), b"", px=BUILDING_MILLISECONDS)
            pipeline.execute()

    def write(self, keys: list[bytes], values: list[bytes], rows: list[bytes] | None = None) -> None:
        """Write records, in any order; a key comes once. A row may also come as a record of its own, under
        ``row_key``."""
        if rows is not None:
            finished = [row_key(key) for key in compress(keys, rows)], list(filter(None, rows))
            records = list(compress(keys, values)), list(filter(None, values))
        else:
            is_row = [key[HASH:] == ROW for key in keys]
            finished = list(compress(keys, is_row)), list(compress(values, is_row))
            is_record = [bool(value) and not row for value, row in zip(values, is_row, strict=True)]
            records = list(compress(keys, is_record)), list(compress(values, is_record))
        self._stored(WRITE, [], self._place.build(self._build), lambda key: key.hex().encode(), *records)
        self._stored(ROWS, [self._place.rows(self._build)], "", lambda key: key[:HASH], *finished)

    def _stored(
        self,
        script: str,
        script_keys: list[str],
        prefix: str,
        name_of: Callable[[bytes], bytes],
        keys: list[bytes],
        values: list[bytes],
    ) -> None:
        """Store values by a script, some at a time, each on its way while others still are."""
        if self._key is not None:
            values = list(map(self._cipher.seal, keys, values))
        self._digest.add(keys, values)
        names = list(map(name_of, keys))
        named = [key.encode() for key in (self._place.building(self._build), *script_keys)]
        first = waiting = 0
        for end, size in enumerate(map(len, values), 1):
            waiting += size
            if waiting >= _BATCH_BYTES or end - first >= _BATCH_VALUES or end == len(values):
                records = names[first:end], values[first:end]
                request = packed_script(script, named, b"%d" % BUILDING_MILLISECONDS, prefix.encode(), *records)
                with self._server.answering():
                    if not self._scripts.send(request):
                        raise self._lost()
                first, waiting = end, 0

    def seal(self, instead_of: bytes = b"") -> bool:
        """Make it the snapshot, in the place of the one with the seal ``instead_of``; whether it is now, or somebody
        else's build came first and is as good. Raises ``UnavailableError`` when it took so long that it counts as given
        up."""
        with self._server.answering():
            if not self._scripts.finish():
                raise self._lost()
        seal = encode_seal(
            BuildSeal(
                format=FORMAT,
                snapshot=self._place.snapshot,
                build=self._build,
                meta=self._cipher.seal(META, encode(self._meta)),
                values=self._digest.values,
                size=self._digest.size,
                digest=self._digest.hex,
                key=self._key,
                layout=LAYOUT,
            )
        )
        place = self._place
        keys = [place.building(self._build), place.seal, builds_key(place.scope), place.rows(self._build)]
        if instead_of:
            keys.append(place.rows(decode_seal(instead_of).build))
        with self._server.answering():
            outcome = self._server.bulk.eval(SEAL, len(keys), *keys, seal, instead_of, place.field(self._build))
        if outcome == b"lost":
            raise self._lost()
        if outcome == b"taken":
            self.discard()
        return bool(outcome == b"sealed")

    def discard(self) -> None:
        """Give up; the next collection removes what was written. Without the server the mark runs out by itself."""
        self._scripts.drop()
        with suppress(AntiphonError), self._server.answering():
            self._server.bulk.delete(self._place.building(self._build))

    def _lost(self) -> UnavailableError:
        return UnavailableError(
            f"The build of {self._place.snapshot} stood still for {BUILDING_MILLISECONDS // 1000} s and was given up, "
            "or the server lost its memory.",
            where="online store",
            next_step="Publish the view again.",
        )


class Digest:
    """Digest of stored records, independent of their order."""

    def __init__(self) -> None:
        self._sum = 0
        self.size = self.values = 0

    def add(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Take keys and stored values into account."""
        for key, value in zip(keys, values, strict=True):
            digest = sha256(len(key).to_bytes(2, "big") + key + value).digest()
            self._sum += int.from_bytes(digest, "big")
        self.size += sum(map(len, values))
        self.values += len(values)

    @property
    def hex(self) -> str:
        return f"{self._sum % 2**256:064x}"


def key_context(place: SnapshotKeys) -> PayloadContext:
    """The place that a snapshot's own key is sealed for."""
    return PayloadContext(_SCHEMA, place.scope, f"{place.view}/{place.snapshot}")
