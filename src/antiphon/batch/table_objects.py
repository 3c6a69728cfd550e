"""Tables of jobs as objects of a store: ``s3://BUCKET/KEY.jsonl``, found alike by workers of every host.

Invariants: an object is read from a whole copy of it on the local disk, which is removed afterwards; one that is
written appears whole, on condition that what was looked at is still there, where the store heeds conditions. The
credentials are those of the lake, and never used at another endpoint.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

import msgspec

from antiphon.core.disk import room_needed
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, SetupError
from antiphon.definitions.objects import ObjectPath, ObjectStore, is_objects, object_mistakes, store_of
from antiphon.features.lake.bucket import Bucket, BucketRole, S3Place

_PIECE = 2**20
_ROLE = BucketRole(
    where="input or output",
    absent="Make it, or correct the URL of the table.",
    refused="Set the environment variables that [features] lake_access_key_variable and lake_secret_key_variable name; "
    "the user must be able to get and put objects.",
    away="Start it, or correct the URL of the table.",
)


class TableObject(msgspec.Struct, frozen=True):
    """One object that holds a table; its text is the URL that orders and jobs name it by."""

    bucket: str
    key: str
    endpoint: str | None = None
    region: str | None = None

    @property
    def suffix(self) -> str:
        """The ending, which says the format."""
        return PurePosixPath(self.key).suffix

    def __str__(self) -> str:
        options = [f"{name}={value}" for name in ("endpoint", "region") if (value := getattr(self, name)) is not None]
        return f"s3://{self.bucket}/{self.key}" + (f"?{'&'.join(options)}" if options else "")


Table = Path | TableObject
"""A table on the local disk or in an object store."""


def table_of(place: str) -> Table:
    """The table that a job names."""
    return object_of(place) if is_objects(place) else Path(place)


def object_of(url: str) -> TableObject:
    """The object that a URL names.

    Raises:
        InvalidInputError: it names none, or several, or holds credentials.
    """
    wrong = next(object_mistakes(url), None) if is_objects(url) else "URL names no object."
    if wrong is not None:
        raise InvalidInputError(f"The {wrong}", where="input or output", next_step="Write s3://BUCKET/KEY.jsonl.")
    found = ObjectPath.of(url)
    parts = found.pattern.split("/")
    if any(part in ("", ".", "..") or set(part) & set("*?[]") for part in parts):
        raise InvalidInputError(
            "The URL does not name one object.", where="input or output", next_step="Write s3://BUCKET/KEY.jsonl."
        )
    return TableObject(found.bucket, found.pattern, found.options.get("endpoint"), found.options.get("region"))


class TableObjects:
    """Reads and writes tables in object stores.

    Args:
        store: the lake's, for URLs that name no other endpoint.
        scratch: folder on the local disk for copies; leftovers of a crash are removed with the lake's.
        private: where the project's own objects lie; no order reads or writes there.
    """

    def __init__(self, store: ObjectStore, scratch: Path, private: Sequence[S3Place] = ()) -> None:
        self._store = store
        self._scratch = scratch
        self._private = private

    def require_open(self, place: TableObject) -> None:
        """Raises ``InvalidInputError`` for an object among the project's own."""
        for one in self._private:
            if place.bucket == one.bucket and f"{place.key}/".startswith(f"{one.prefix}/" if one.prefix else ""):
                raise InvalidInputError(
                    "The project keeps its own objects there.",
                    where=str(place),
                    next_step="Put tables under another prefix than those of [features] lake and [batch] files.",
                )

    @contextmanager
    def fetched(self, place: TableObject) -> Iterator[Path]:
        """A whole copy of the object, removed when the block ends; raises ``NotFoundError`` when there is none."""
        with self._folder() as folder, self._opened(place) as bucket:
            copy = folder / f"table{place.suffix}"
            with room_needed("lake's scratch folder"), copy.open("xb") as stream:
                for piece in self._pieces(bucket, place):
                    stream.write(piece)
            yield copy

    @contextmanager
    def draft(self, place: TableObject) -> Iterator[Path]:
        """A path on the local disk to write the object's content to before it is put; removed with the block."""
        with self._folder() as folder:
            yield folder / f"table{place.suffix}"

    def found(self, place: TableObject) -> tuple[str, str] | None:
        """The SHA-256 of an object and the entity tag it was read under; ``None`` when there is none."""
        digest = hashlib.sha256()
        try:
            with self._opened(place) as bucket:
                tag = self._tag(bucket, place)
                for piece in self._pieces(bucket, place, tag):
                    digest.update(piece)
        except NotFoundError:
            return None
        return digest.hexdigest(), tag

    def require_credentials(self, place: TableObject) -> None:
        """Raises ``SetupError`` where the store's client is not installed, or a variable of the credentials is not set;
        nothing is sent."""
        with self._opened(place) as bucket:
            _ = bucket.client

    def put(self, file: Path, place: TableObject, instead_of: str | None) -> None:
        """Put a file in the object's place.

        Args:
            instead_of: the entity tag that may be replaced; ``None``: there must be no object.

        Raises:
            ConflictError: it is another one now. UnavailableError, SetupError: the store does not take it.
        """
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of}
        changed = ConflictError(
            "Another process has written the table meanwhile.", where=str(place), next_step="Order another output."
        )
        with self._opened(place) as bucket, file.open("rb") as content, bucket.answering(changed, changed):
            bucket.client.put_object(Bucket=place.bucket, Key=place.key, Body=content, **condition)

    def remove(self, place: TableObject) -> None:
        """Remove an object; one that is not there is no error. Raises as :meth:`put`."""
        with self._opened(place) as bucket, bucket.answering():
            bucket.client.delete_object(Bucket=place.bucket, Key=place.key)

    def _tag(self, bucket: Bucket, place: TableObject) -> str:
        with bucket.answering(_missing(place)):
            return str(bucket.client.head_object(Bucket=place.bucket, Key=place.key)["ETag"])

    def _pieces(self, bucket: Bucket, place: TableObject, tag: str | None = None) -> Iterator[bytes]:
        condition = {} if tag is None else {"IfMatch": tag}
        changed = ConflictError("The table was written while it was read.", where=str(place), next_step="Try again.")
        with bucket.answering(_missing(place), changed):
            answer = bucket.client.get_object(Bucket=place.bucket, Key=place.key, **condition)
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(_PIECE)

    @contextmanager
    def _opened(self, place: TableObject) -> Iterator[Bucket]:
        store = store_of(ObjectPath.of(str(place)), ObjectStore(), self._store)
        bucket = Bucket(
            S3Place(place.bucket, "", store.endpoint, store.region),
            _ROLE,
            access_key=_secret(store.access_key_variable),
            secret_key=_secret(store.secret_key_variable),
        )
        with closing(bucket):
            yield bucket

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix="table-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _missing(place: TableObject) -> NotFoundError:
    return NotFoundError("There is no such object.", where=str(place))


def _secret(variable: str | None) -> str | None:
    value = None if variable is None else os.environ.get(variable)
    if variable is not None and not value:
        raise SetupError(
            f"The environment variable {variable} is not set.",
            where="[features] lake_access_key_variable, lake_secret_key_variable",
            next_step="Set it where the gateway and the worker start.",
        )
    return value
