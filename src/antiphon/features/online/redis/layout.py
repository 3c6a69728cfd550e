"""Keys of sealed snapshots in Redis, and the scripts that change several of them in one step.

Keys, in clear but for the entity:

- ``TENANT:ENVIRONMENT:VIEW:SNAPSHOT:BUILD:RECORD`` a record's value, a string. Written once, never changed. ``RECORD``
  is the record's key in hex: the entity's keyed hash, then ``ff`` for its base tile, or 8 bytes for a tile's events.
  Two that build one snapshot at the same time write under two ``BUILD``\\ s and never mix.
- ``TENANT:ENVIRONMENT:VIEW:SNAPSHOT:BUILD:rows`` a hash of every entity's hash to its finished row, and of the field
  ``s``, which comes and goes with the seal in one step: one command reads any number of rows and that they count.
- ``TENANT:ENVIRONMENT:VIEW:SNAPSHOT:seal`` written last and in one step: which build is the snapshot.
- ``TENANT:ENVIRONMENT:VIEW:SNAPSHOT:BUILD:building`` expires when its builder gives no sign of life; a build without it
  can neither be written nor sealed any more.
- ``TENANT:ENVIRONMENT:@builds`` a hash of every build there is anything of, to when it was sealed (seconds since 1970,
  empty before): what a collection goes by.
"""

from __future__ import annotations

import msgspec

from antiphon.core.scope import Scope

BUILDING_MILLISECONDS = 60_000
"""Longest time between two batches of a build."""


LAYOUT = 2
"""Of the keys above; before there was a hash for each entity."""


class BuildSeal(msgspec.Struct, frozen=True):
    """Seal of a build: names the build that is the snapshot.

    Attributes:
        key: packed envelope of the snapshot's own key; ``None`` in plaintext.
        meta: the meta record, sealed like any value.
        values, size: how many values there are, and how many bytes is stored in them.
        layout: :data:`LAYOUT` as it was when the build was written.
        digest: sum modulo 2²⁵⁶ of the SHA-256 of every stored value with its key, in hex; whatever order they have.
    """

    format: int
    snapshot: str
    build: str
    meta: bytes
    values: int
    size: int
    digest: str
    key: bytes | None = None
    layout: int = 1


encode_seal = msgspec.msgpack.Encoder().encode
decode_seal = msgspec.msgpack.Decoder(BuildSeal).decode


class SnapshotKeys(msgspec.Struct, frozen=True):
    """A snapshot's keys."""

    scope: Scope
    view: str
    snapshot: str

    @property
    def seal(self) -> str:
        return f"{self._prefix}:seal"

    def build(self, build: str) -> str:
        """Prefix of the keys of one build."""
        return f"{self._prefix}:{build}:"

    def rows(self, build: str) -> str:
        """The hash of one build's finished rows."""
        return f"{self._prefix}:{build}:rows"

    def building(self, build: str) -> str:
        """Key of the mark of a build under way."""
        return f"{self._prefix}:{build}:building"

    def field(self, build: str) -> str:
        """The build's field in the hash of builds."""
        return f"{self.view}:{self.snapshot}:{build}"

    @property
    def _prefix(self) -> str:
        return f"{self.scope.tenant}:{self.scope.environment}:{self.view}:{self.snapshot}"


def builds_key(scope: Scope) -> str:
    """The hash of a scope's builds. A view's name has no ``@``."""
    return f"{scope.tenant}:{scope.environment}:@builds"


SEALED = b"s"
"""The field that rows of a sealed build have."""

WRITE = """
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('MSET', unpack(ARGV, 2))
return 1
"""
"""Key: the building mark; arguments: its time to live, then a key and a value for each record, of which Lua can pass on
3,500 at a time. One command for all of them, and no hash for each, take two thirds of the server's time and memory."""

ROWS = """
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
return 1
"""
"""Keys: the building mark, the hash of rows; arguments: its time to live, then a field and a value for each row."""

SEAL = """
local known = redis.call('GET', KEYS[2])
if known == ARGV[1] then return 'sealed' end
if redis.call('EXISTS', KEYS[1]) == 0 then return 'lost' end
if (known or '') ~= ARGV[2] then return 'taken' end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[3], redis.call('TIME')[1])
redis.call('HSET', KEYS[4], 's', '1')
if KEYS[5] then redis.call('HDEL', KEYS[5], 's') end
redis.call('DEL', KEYS[1])
return 'sealed'
"""
"""Keys: the building mark, the seal, builds, rows, those of the build that is replaced if there is one; arguments: the
new seal, the one it replaces or nothing, the field."""

TOUCH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], redis.call('TIME')[1])
return 1
"""
"""Keys: the seal, builds; arguments: the seal as read, the field. Whether it is still there, and counts as new now."""

DROP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0) >= tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[3], 's')
return 1
"""
"""Keys: the seal, builds, rows; arguments: the seal as read, the field, an instant. Whether it was older and is gone
now."""
