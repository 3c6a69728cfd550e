"""The lake in an S3-compatible object store. A file is named by its content, so writing it twice is writing it once.

Invariants: an object appears whole or not at all (a multipart upload that is completed last); a file is finished and
hashed on the local disk before its upload begins, and read by one request into a file that has no name, so that nobody
sees half of one, and what is read is checked against its name. Which of two writers came first decides the catalog,
never the store: conditional writes are not needed. Under a codec that seals, what touches the local disk is sealed too.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from antiphon.core.codec import Codec
from antiphon.core.disk import room_needed
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.lake.bucket import Bucket, BucketRole, S3Place
from antiphon.features.lake.content import Lake, LakeDraft, changed, context_of, missing
from antiphon.governance.encryption.sealed_files import key_of, open_sealed

_PIECE = 2**20
_PART = 64 * 2**20
_ROLE = BucketRole(
    where="lake",
    absent="Make it: a lake does not make its own bucket.",
    refused="Set the environment variables that [features] lake_access_key_variable and lake_secret_key_variable name, "
    "and what the user may do: list, get, put and delete objects.",
    away="Start it, free its space, or correct [features] lake; `antiphon doctor` asks it.",
)


class S3Lake(Lake):
    """Content-addressed objects below one prefix: ``PREFIX/TENANT/ENVIRONMENT/ab/abcd….parquet``; the other arguments
    are those of :class:`Bucket` and :class:`Lake`."""

    def __init__(
        self,
        place: S3Place,
        *,
        scratch: Path,
        access_key: str | None = None,
        secret_key: str | None = None,
        codec: Codec | None = None,
        timeout: float = 10.0,
    ) -> None:
        super().__init__(scratch, codec)
        self.place = place
        self._bucket = Bucket(place, _ROLE, access_key=access_key, secret_key=secret_key, timeout=timeout)

    @contextmanager
    def writing(self, scope: Scope, suffix: str) -> Iterator[LakeDraft]:
        with room_needed("lake's scratch folder"):
            partial = self._scratch_file(suffix)
        try:
            with room_needed("lake's scratch folder"), partial.open("xb") as stream:
                draft = LakeDraft(stream, self._codec)
                yield draft
                draft.ended(scope, suffix)
                draft.size = stream.tell()
            self._upload(partial, draft.path)
        finally:
            partial.unlink(missing_ok=True)

    def _upload(self, partial: Path, relative: str) -> None:
        from boto3.s3.transfer import TransferConfig

        whole = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, use_threads=False)
        with self._bucket.answering(), partial.open("rb") as stream:
            # In parts when it is large; the client aborts an upload that fails.
            self._bucket.client.upload_fileobj(stream, self.place.bucket, self._key(relative), Config=whole)

    def has(self, relative: str) -> bool:
        try:
            with self._bucket.answering(missing(relative)):
                self._bucket.client.head_object(Bucket=self.place.bucket, Key=self._key(relative))
        except CorruptionError:
            return False
        return True

    def open(self, relative: str) -> BinaryIO:
        """Open a copy on the local disk, deleted when it is closed."""
        copy, sha256 = self._downloaded(relative)
        try:
            opened = open_sealed(copy, self._codec, context_of(relative))
            if opened is copy and sha256 != PurePosixPath(relative).name.partition(".")[0]:
                raise changed(relative)
            return opened
        except BaseException:
            copy.close()
            raise

    def _downloaded(self, relative: str) -> tuple[BinaryIO, str]:
        """Fetch the stored bytes by one request into an unnamed file; return it with its SHA-256."""
        copy = cast(BinaryIO, tempfile.TemporaryFile(dir=self._scratch_folder()))  # noqa: SIM115
        digest = hashlib.sha256()
        try:
            with self._bucket.answering(missing(relative)):
                answer = self._bucket.client.get_object(Bucket=self.place.bucket, Key=self._key(relative))
                with closing(answer["Body"]) as body:
                    for piece in body.iter_chunks(_PIECE):
                        digest.update(piece)
                        copy.write(piece)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy, digest.hexdigest()

    def key_of(self, relative: str) -> str | None:
        copy, _ = self._downloaded(relative)
        with copy:
            return key_of(copy)

    def remove(self, relative: str) -> None:
        with self._bucket.answering():
            self._bucket.client.delete_object(Bucket=self.place.bucket, Key=self._key(relative))

    def scopes(self) -> list[Scope]:
        return sorted(
            Scope(tenant, environment) for tenant in self._folders("") for environment in self._folders(f"{tenant}/")
        )

    def _folders(self, below: str) -> list[str]:
        """Names between a prefix and the next slash."""
        start = self._key(below)
        found: list[str] = []
        for page in self._bucket.pages(Prefix=start, Delimiter="/"):
            found += [item["Prefix"][len(start) : -1] for item in page.get("CommonPrefixes", ())]
        return found

    def sizes(self, scope: Scope) -> Iterator[tuple[str, int]]:
        for relative, size, _ in self._listed(scope):
            yield relative, size

    def _listed(self, scope: Scope) -> list[tuple[str, int, float]]:
        """Every file of a scope, its bytes, and when it was written (seconds since 1970)."""
        start = len(self._key(""))
        return [
            (item["Key"][start:], item["Size"], item["LastModified"].timestamp())
            for page in self._bucket.pages(Prefix=self._key(f"{scope.tenant}/{scope.environment}/"))
            for item in page.get("Contents", ())
        ]

    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        kept = set(keep)  # Ages are by the store's clock.
        gone = [
            relative for relative, _, written in self._listed(scope) if relative not in kept and written < older_than
        ]
        for relative in gone:
            self.remove(relative)
        self._collect_scratch(older_than)
        return gone

    def describe(self) -> str:
        """Name the bucket that answers, for ``antiphon doctor``; raises ``SetupError`` or ``UnavailableError`` when it
        does not answer."""
        with self._bucket.answering():
            self._bucket.client.list_objects_v2(Bucket=self.place.bucket, MaxKeys=1)
        return str(self.place)

    def close(self) -> None:
        self._bucket.close()

    def _key(self, relative: str) -> str:
        return f"{self.place.prefix}/{relative}" if self.place.prefix else relative
