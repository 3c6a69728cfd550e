"""The lake in an S3-compatible object store. A file is named by its content, so writing it twice is writing it once.

Invariants: an object appears whole or not at all (a multipart upload that is completed last); a file is finished and
hashed on the local disk before its upload begins, and read by one request into a file that has no name, so that nobody
sees half of one, and what is read is checked against its name. Which of two writers came first decides the catalog,
never the store: conditional writes are not needed. Under a codec that seals, what touches the local disk is sealed too.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import AntiphonError, InvalidInput, SetupError, Unavailable
from antiphon.core.scope import Scope
from antiphon.features.lake.content import LakeDraft, changed, context_of, missing, require_content
from antiphon.features.lake.scratch import Scratch
from antiphon.governance.sealed_files import key_of, open_sealed

_PIECE = 8 * 2**20
_OPTIONS = {"endpoint", "region"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


class S3Place(msgspec.Struct, frozen=True):
    """Where a lake is: ``s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION``. Without endpoint it is AWS."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, url: str) -> S3Place:
        """The place that a URL names.

        Raises:
            InvalidInput: it is none, or holds credentials.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if parts.scheme != "s3" or not _BUCKET.match(parts.netloc.rpartition("@")[2]):
            raise InvalidInput(
                "This names no bucket.", where="[features] lake", next_step="Write s3://BUCKET/PREFIX?endpoint=URL."
            )
        if "@" in parts.netloc or any("key" in name or "secret" in name or "token" in name for name in options):
            raise InvalidInput(
                "The URL holds credentials.",
                where="[features] lake",
                next_step="Put them into environment variables and name those in lake_access_key_variable and "
                "lake_secret_key_variable.",
            )
        if unknown := sorted(set(options) - _OPTIONS):
            raise InvalidInput(
                f"{unknown[0]!r} is no option of an S3 lake.",
                where="[features] lake",
                next_step=f"There are {' and '.join(sorted(_OPTIONS))}.",
            )
        endpoint = options.get("endpoint")
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise InvalidInput(
                f"{endpoint!r} is no endpoint.", where="[features] lake", next_step="Write endpoint=https://HOST:PORT."
            )
        return cls(parts.netloc, parts.path.strip("/"), endpoint, options.get("region"))

    @property
    def root(self) -> str:
        """Bucket and prefix."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def __str__(self) -> str:
        return f"s3://{self.root}" + (f" at {self.endpoint}" if self.endpoint else "")


class S3Lake:
    """Content-addressed objects below one prefix: ``PREFIX/TENANT/ENVIRONMENT/ab/abcd….parquet``.

    Args:
        access_key, secret_key: credentials; without them those that the AWS client finds by itself.
        scratch: a folder on the local disk.
    """

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
        self.place = place
        self._scratch = Scratch(scratch)
        self._access_key = access_key
        self._secret_key = secret_key
        self._codec: Codec = codec or PlainCodec()
        self._timeout = timeout

    @cached_property
    def _store(self) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        endpoint = urlsplit(self.place.endpoint) if self.place.endpoint else None
        return S3FileSystem(
            access_key=self._access_key,
            secret_key=self._secret_key,
            region=self.place.region or ("us-east-1" if endpoint else None),
            endpoint_override=endpoint.netloc if endpoint else None,
            scheme=endpoint.scheme if endpoint else "https",
            connect_timeout=self._timeout,
            request_timeout=self._timeout,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
        )

    @property
    def sealed(self) -> bool:
        """Whether nothing clear of what is read or written here may reach a disk."""
        return self._codec.sealing

    @contextmanager
    def writing(self, scope: Scope, suffix: str) -> Iterator[LakeDraft]:
        """A new file; when the block ends it is in place, and the draft tells its path below the root, the SHA-256 of
        its clear content and its stored size. A block that raises leaves nothing.

        Raises:
            Unavailable: the store does not answer or takes nothing.
            SetupError: there is no such bucket, or we may not write.
        """
        partial = self._scratch.file(suffix)
        try:
            with partial.open("xb") as stream:
                draft = LakeDraft(stream, self._codec)
                yield draft
                draft.ended(scope, suffix)
                draft.size = stream.tell()
            self._upload(partial, draft.path, draft.size)
        finally:
            partial.unlink(missing_ok=True)

    def _upload(self, partial: Path, relative: str, size: int) -> None:
        import pyarrow

        with self._answering():
            try:
                with self._store.open_output_stream(self._name(relative)) as sink:
                    if size:
                        with pyarrow.memory_map(str(partial)) as source:
                            sink.write(source.read_buffer())
            finally:
                # A stream that failed is closed too; it must not have left a shorter object.
                found = self._stored(relative)
                if found is not None and found != size:
                    self._store.delete_file(self._name(relative))
        if found != size:
            raise Unavailable(
                f"An upload of {size:,} bytes did not arrive.", where=str(self.place), next_step="Try again."
            )

    def _stored(self, relative: str) -> int | None:
        found = self._store.get_file_info(self._name(relative))
        return int(found.size) if found.is_file else None

    def open(self, relative: str) -> BinaryIO:
        """The clear content of a file, for reading at any position: a copy on the local disk that goes with it.

        Raises:
            Corrupt: it is gone, or was changed or moved from another place.
            Unavailable: the store does not answer.
        """
        copy = cast(BinaryIO, tempfile.TemporaryFile(dir=self._scratch.made()))  # noqa: SIM115
        try:
            digest = hashlib.sha256()
            with self._answering(relative), self._store.open_input_stream(self._name(relative)) as source:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    copy.write(piece)
            copy.seek(0)
            opened = open_sealed(copy, self._codec, context_of(relative))
            if opened is copy and digest.hexdigest() != PurePosixPath(relative).name.partition(".")[0]:
                raise changed(relative)
            return opened
        except BaseException:
            copy.close()
            raise

    def verify(self, relative: str, sha256: str) -> None:
        """Check a file's content against its hash.

        Raises:
            Corrupt: it is gone or changed.
        """
        with self.open(relative) as stream:
            require_content(stream, relative, sha256)

    def scratch(self) -> Path:
        """A new empty folder on the local disk. What is written there is not sealed."""
        return self._scratch.folder()

    def key_of(self, relative: str) -> str | None:
        """Id of the data key that seals a file's own key; ``None`` for one in plaintext.

        Raises:
            Corrupt: it is gone.
        """
        with self._answering(relative), self._store.open_input_file(self._name(relative)) as stream:
            return key_of(stream)

    def scopes(self) -> list[Scope]:
        """Every scope that has something here."""
        from pyarrow.fs import FileSelector

        with self._answering():
            tenants = self._store.get_file_info(FileSelector(self.place.root, allow_not_found=True))
            folders = [
                folder
                for tenant in tenants
                if not tenant.is_file
                for folder in self._store.get_file_info(FileSelector(tenant.path, allow_not_found=True))
                if not folder.is_file
            ]
        return sorted(Scope(*folder.path.split("/")[-2:]) for folder in folders)

    def files(self, scope: Scope) -> Iterator[str]:
        """Every file of a scope, as paths below the root."""
        for relative, _ in self._listed(scope):
            yield relative

    def _listed(self, scope: Scope) -> list[tuple[str, float]]:
        """Every file of a scope and when it was written (seconds since 1970)."""
        from pyarrow.fs import FileSelector

        folder = self._name(f"{scope.tenant}/{scope.environment}")
        with self._answering():
            found = self._store.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
        start = len(self.place.root) + 1
        return sorted((item.path[start:], item.mtime_ns / 1e9) for item in found if item.is_file)

    def reseal(self, relative: str) -> None:
        """Write a file anew under the codec's current key, in the place of the old one; its content stays.

        Raises:
            Corrupt: it is gone, or does not open.
        """
        tenant, environment = relative.split("/")[:2]
        suffix = PurePosixPath(relative).suffix
        with self.open(relative) as stream, self.writing(Scope(tenant, environment), suffix) as draft:
            while piece := stream.read(2**20):
                draft.write(piece)

    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]:
        """Delete files that are not kept and were written before ``older_than`` (seconds since 1970, by the store's
        clock). The age spares a file whose manifest is about to be committed."""
        kept = set(keep)
        gone = []
        for relative, written in self._listed(scope):
            if relative not in kept and written < older_than:
                with self._answering():
                    if self._stored(relative) is not None:
                        self._store.delete_file(self._name(relative))
                gone.append(relative)
        self._scratch.collect(older_than)
        return gone

    def describe(self) -> str:
        """What answers, in words: for ``antiphon doctor``.

        Raises:
            SetupError, Unavailable: it does not.
        """
        self.scopes()
        with self._answering():
            if not self._store.get_file_info(self.place.bucket).type.name == "Directory":
                raise self._no_bucket()
        return str(self.place)

    def _name(self, relative: str) -> str:
        return f"{self.place.root}/{relative}"

    @contextmanager
    def _answering(self, relative: str | None = None) -> Iterator[None]:
        """Ask the store; its errors come out as ours. ``relative`` is the file that is read."""
        try:
            yield
        except AntiphonError:
            raise
        except FileNotFoundError as error:
            if relative is not None and self._has_bucket():
                raise missing(relative) from error
            raise self._no_bucket() from error
        except OSError as error:
            said = str(error)
            if "NO_SUCH_BUCKET" in said or "NoSuchBucket" in said:
                raise self._no_bucket() from error
            if _DENIED.search(said):
                raise SetupError(
                    f"{self.place} does not let us: {_first_line(said)}",
                    where="lake",
                    next_step="Set the environment variables that [features] lake_access_key_variable and "
                    "lake_secret_key_variable name, and what the user may do: list, get, put and delete objects.",
                ) from error
            raise Unavailable(
                f"{self.place} does not answer: {_first_line(said)}",
                where="lake",
                next_step="Start it, free its space, or correct [features] lake; `antiphon doctor` asks it.",
            ) from error

    def _has_bucket(self) -> bool:
        with self._answering():
            return bool(self._store.get_file_info(self.place.bucket).type.name == "Directory")

    def _no_bucket(self) -> SetupError:
        return SetupError(
            f"There is no bucket {self.place.bucket!r} at {self.place.endpoint or 'AWS'}.",
            where="lake",
            next_step="Make it: a lake does not make its own bucket.",
        )


_DENIED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|HTTP status 40[13]|AccessDenied")


def _first_line(said: str) -> str:
    return said.splitlines()[0][:300]
