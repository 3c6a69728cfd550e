"""Objects of an S3-compatible store: which ones a pattern names, and each one fetched as it was listed.

Invariants: what is fetched is what was listed, every object by one request on condition of its entity tag and to its
last byte, or the source is not read. An object's version is its entity tag and size, which the store makes of its
content: neither dates nor names are trusted. Of an object that is fetched one piece at a time is in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from fnmatch import translate
from typing import BinaryIO

import msgspec

from antiphon.core.errors import NotFoundError, SetupError, UnavailableError
from antiphon.definitions.objects import ObjectPath, ObjectStore
from antiphon.definitions.source import SourceSpec
from antiphon.features.lake.bucket import Bucket, BucketRole, S3Place

AT_ONCE = 4
"""Objects fetched at once: requests mostly wait for the store."""
_PIECE = 2**20
_MAGIC = re.compile(r"[*?[]")
_WILDCARD = re.compile(r"(\*+|\?|\[!?\]?[^]]*\])")


class StoredObject(msgspec.Struct, frozen=True):
    """An object as the store lists it; ``size`` in bytes, ``tag`` its entity tag."""

    bucket: str
    key: str
    size: int
    tag: str

    @property
    def url(self) -> str:
        """``s3://BUCKET/KEY``."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def version(self) -> str:
        """Hash of its entity tag and size, in place of a file's SHA-256."""
        return hashlib.sha256(f"{self.tag} {self.size}".encode()).hexdigest()


def listed(source: SourceSpec) -> tuple[StoredObject, ...]:
    """The objects that a source's path names now, as :func:`present` finds them; raises as that, and ``SetupError``
    where there is none."""
    path, objects = ObjectPath.of(source.path or ""), present(source)
    if not objects:
        raise SetupError(
            f"There is no object {path.pattern.rsplit('/', 1)[-1]}.",
            where=f"source {source.name}",
            next_step=f"Put {path} there, or correct the source's path.",
        )
    return objects


def present(source: SourceSpec) -> tuple[StoredObject, ...]:
    """The objects that a source's path names now, if any, in order of their keys; of a folder all below it but those
    behind a name that begins with a dot.

    Raises:
        SetupError: there is no such bucket, or the store refuses access.
        UnavailableError: it does not answer.
    """
    path = ObjectPath.of(source.path or "")
    with _bucket(source, path) as bucket:
        magic = _MAGIC.search(path.pattern)
        if magic is None and not path.pattern.endswith("/"):
            try:
                with bucket.answering(missing=NotFoundError(f"There is no object {path.pattern}.")):
                    found = bucket.client.head_object(Bucket=path.bucket, Key=path.pattern)
            except NotFoundError:
                return ()
            return (StoredObject(path.bucket, path.pattern, int(found["ContentLength"]), str(found["ETag"])),)
        matches = matching_keys(path.pattern)
        folder = path.pattern.endswith("/")
        objects = [
            StoredObject(path.bucket, item["Key"], int(item["Size"]), str(item["ETag"]))
            for page in bucket.pages(Prefix=path.pattern[: magic.start()] if magic is not None else path.pattern)
            for item in page.get("Contents", ())
            if (folder and _is_seen(item["Key"].removeprefix(path.pattern))) or matches.fullmatch(item["Key"])
        ]
    return tuple(sorted(objects, key=lambda one: one.key))


def _is_seen(key: str) -> bool:
    return not any(part.startswith(".") for part in key.split("/"))


def fetch(
    source: SourceSpec,
    objects: Sequence[StoredObject],
    into: Callable[[StoredObject], AbstractContextManager[BinaryIO]],
) -> None:
    """Write each object's content to the stream that ``into`` opens for it; several at once, each from a thread.

    Raises:
        SetupError: the store refuses to read one.
        UnavailableError: one changed or went since it was listed, came to an end too early, or the store does not
            answer.
        OSError: a stream cannot be written.
    """
    with _bucket(source, ObjectPath.of(source.path or "")) as bucket:
        bucket.client  # noqa: B018  # created here: boto3 sessions are not thread-safe
        threads = ThreadPoolExecutor(AT_ONCE)
        try:
            for done in [threads.submit(_fetch, bucket, source, one, into) for one in objects]:
                done.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _fetch(
    bucket: Bucket,
    source: SourceSpec,
    stored: StoredObject,
    into: Callable[[StoredObject], AbstractContextManager[BinaryIO]],
) -> None:

    def broken(what: str) -> UnavailableError:
        next_step = f"Nothing was published; the refresh is tried again. It is {stored.url}."
        return UnavailableError(what, where=f"source {source.name}", next_step=next_step)

    changed = broken("An object of the source changed while it was read.")
    read = 0
    with bucket.answering(missing=changed, changed=changed):
        answer = bucket.client.get_object(Bucket=stored.bucket, Key=stored.key, IfMatch=stored.tag)
        with closing(answer["Body"]) as body:
            # Not every store heeds the condition.
            if answer["ETag"] != stored.tag:
                raise changed
            with into(stored) as stream:
                for piece in body.iter_chunks(_PIECE):
                    stream.write(piece)
                    read += len(piece)
    if read != stored.size:
        raise broken(f"An object of the source ended after {read} of {stored.size} bytes.")


@contextmanager
def _bucket(source: SourceSpec, path: ObjectPath) -> Iterator[Bucket]:
    store = source.store or ObjectStore()
    names = [name for name in (store.access_key_variable, store.secret_key_variable) if name is not None]
    refused = (
        f"Set {' and '.join(names)} where the worker starts"
        if names
        else "Name the environment variables with credentials in access_key_variable and secret_key_variable of the "
        "source, or of the lake in the settings"
    )
    role = BucketRole(
        where=f"source {source.name}",
        absent="Correct the source's path, or the region and endpoint of its store.",
        refused=f"{refused}; the user must be able to list and get objects.",
        away="Start it, or correct the source's endpoint or region; what was published before is served meanwhile.",
    )
    bucket = Bucket(
        S3Place(path.bucket, "", store.endpoint, store.region),
        role,
        access_key=_secret(store.access_key_variable, source),
        secret_key=_secret(store.secret_key_variable, source),
    )
    try:
        yield bucket
    finally:
        bucket.close()


def _secret(variable: str | None, source: SourceSpec) -> str | None:
    value = None if variable is None else os.environ.get(variable)
    if variable is not None and not value:
        raise SetupError(
            f"The environment variable {variable} is not set.",
            where=f"source {source.name}",
            next_step="Set it where the gateway and the worker start.",
        )
    return value


def matching_keys(pattern: str) -> re.Pattern[str]:
    """The keys that a pattern means, as a glob of files: a wildcard is no slash, and no dot that begins a name."""
    return re.compile("/".join(map(_segment, pattern.split("/"))), re.DOTALL)


def _segment(pattern: str) -> str:
    found = "(?!\\.)" if pattern[:1] in ("*", "?", "[") else ""
    for part in _WILDCARD.split(pattern):
        if part[:1] == "*":
            found += "[^/]*"
        elif part == "?":
            found += "[^/]"
        elif part[:1] == "[":
            found += f"(?!/){translate(part)[len('(?s:') : -len(')Z') - 1]}"
        else:
            found += re.escape(part)
    return found
