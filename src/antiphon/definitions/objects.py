"""Objects of an S3-compatible store as the place of a source: which ones, in which store, and whose credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import msgspec

SCHEME = "s3://"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
OPTIONS = ("endpoint", "region")
_OPTION = re.compile(r"[A-Za-z_-]+=")


class ObjectStore(msgspec.Struct, frozen=True):
    """An S3-compatible store and how one gets in.

    Attributes:
        endpoint: ``https://HOST:PORT``; ``None`` is AWS.
        access_key_variable, secret_key_variable: the environment variables that hold the credentials; without them the
            AWS client looks where it always does.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_variable: str | None = None
    secret_key_variable: str | None = None


class ObjectPath(msgspec.Struct, frozen=True):
    """A source's path taken apart: ``s3://BUCKET/PATTERN?endpoint=URL&region=REGION``."""

    bucket: str
    pattern: str
    options: dict[str, str]

    @classmethod
    def of(cls, path: str) -> ObjectPath:
        """Take a path apart. Options begin at a question mark that a name and ``=`` follow: others belong to a
        pattern."""
        bucket, _, rest = path.removeprefix(SCHEME).partition("/")
        pattern, mark, tail = rest.rpartition("?")
        if not mark or not _OPTION.match(tail):
            return cls(bucket, rest, {})
        return cls(bucket, pattern, dict(parse_qsl(tail, keep_blank_values=True)))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.pattern}"


def is_objects(path: object) -> bool:
    """Tells whether a source's path names objects of a store."""
    return isinstance(path, str) and path.startswith(SCHEME)


def store_of(path: ObjectPath, own: ObjectStore, fallback: ObjectStore) -> ObjectStore:
    """The store of a source: what it says itself, and what it does not say from ``fallback``. Credentials of one
    endpoint are never used at another."""
    elsewhere = "endpoint" in path.options and path.options["endpoint"] != fallback.endpoint
    beside = ObjectStore() if elsewhere else fallback
    named = own.access_key_variable is not None or own.secret_key_variable is not None
    return ObjectStore(
        path.options.get("endpoint", beside.endpoint),
        path.options.get("region", beside.region),
        own.access_key_variable if named else beside.access_key_variable,
        own.secret_key_variable if named else beside.secret_key_variable,
    )


def object_mistakes(path: str, *, folder: bool = False) -> Iterator[str]:
    """Yields the mistakes of a path that begins with ``s3://``, a sentence each; whether it may be a ``folder``."""
    found = ObjectPath.of(path)
    secret = [name for name in found.options if re.search("key|secret|token|password", name, re.IGNORECASE)]
    if "@" in found.bucket or secret:
        yield "path holds credentials; name environment variables in access_key_variable and secret_key_variable."
        return
    if not BUCKET.match(found.bucket):
        yield "path names no bucket; write s3://BUCKET/PREFIX/*.parquet."
    elif not found.pattern or (found.pattern.endswith("/") and not folder):
        yield f"path names no object; write {SCHEME}{found.bucket}/{found.pattern}*.parquet, or .csv, .jsonl or .json."
    for name in found.options:
        if name not in OPTIONS:
            yield f"path: {name!r} is no option; there are {' and '.join(OPTIONS)}."
    endpoint = found.options.get("endpoint")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            yield "path: endpoint must be https://HOST:PORT, without credentials."
