"""A bucket of an S3-compatible store: its client, and its errors as ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.outgoing import holds_secret
from antiphon.definitions.objects import BUCKET, OPTIONS

_DENIED = {
    "403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken",
    "UserSuspended", "AllAccessDisabled",
}  # fmt: skip
_ABSENT = {"404", "NoSuchKey"}
_making = threading.Lock()
"""A session may make clients in one thread at a time."""


@cache
def _session() -> Any:
    """The process's one session: reading the descriptions of AWS's services takes longer than a request."""
    from boto3.session import Session

    return Session()


class S3Place(msgspec.Struct, frozen=True):
    """Address of a lake: ``s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION``. AWS without endpoint."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, url: str) -> S3Place:
        """The place that a URL names; raises ``InvalidInputError`` when it is none, or holds credentials."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if parts.scheme != "s3" or not BUCKET.match(parts.netloc.rpartition("@")[2]):
            raise _wrong("The URL of `[features] lake` names no bucket.", "Write s3://BUCKET/PREFIX?endpoint=URL.")
        endpoint = options.get("endpoint")
        if (
            holds_secret(endpoint or "")
            or "@" in parts.netloc
            or any("key" in name or "secret" in name or "token" in name for name in options)
        ):
            raise _wrong(
                "The URL holds credentials.",
                "Put them into environment variables and name those in lake_access_key_variable and "
                "lake_secret_key_variable.",
            )
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise _wrong(f"{unknown[0]!r} is no option of an S3 lake.", f"There are {' and '.join(OPTIONS)}.")
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise _wrong(f"{endpoint!r} is no endpoint.", "Write endpoint=https://HOST:PORT.")
        return cls(parts.netloc, parts.path.strip("/"), endpoint, options.get("region"))

    @property
    def root(self) -> str:
        """Bucket and prefix."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def __str__(self) -> str:
        return f"s3://{self.root}" + (f" at {self.endpoint}" if self.endpoint else "")


def _wrong(what: str, next_step: str) -> InvalidInputError:
    return InvalidInputError(what, where="[features] lake", next_step=next_step)


class BucketRole(msgspec.Struct, frozen=True):
    """The use of a bucket, for error messages: ``where`` in the product it is needed, and the next steps when the
    bucket does not exist (``absent``), refuses access (``refused``), and does not answer (``away``)."""

    where: str
    absent: str
    refused: str
    away: str


class Bucket:
    """One bucket behind one client, which threads may share. Without keys the AWS client finds its credentials by
    itself; ``timeout`` is in seconds for a connection, and for each piece of an answer."""

    def __init__(
        self,
        place: S3Place,
        role: BucketRole,
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.place = place
        self._role = role
        self._access_key = access_key
        self._secret_key = secret_key
        self._timeout = timeout

    @cached_property
    def client(self) -> Any:
        """The store's client; raises ``SetupError`` when it is not installed."""
        try:
            from botocore.config import Config

            session = _session()
        except ImportError as error:
            raise SetupError(
                "The client of S3 is not installed.", where=self._role.where, next_step="pip install antiphon[s3]"
            ) from error
        with _making:
            return session.client(
                "s3",
                endpoint_url=self.place.endpoint,
                region_name=self.place.region or ("us-east-1" if self.place.endpoint else None),
                aws_access_key_id=self._access_key,
                aws_secret_access_key=self._secret_key,
                config=Config(
                    connect_timeout=self._timeout,
                    read_timeout=self._timeout,
                    retries={"mode": "standard", "total_max_attempts": 3},
                    s3={"addressing_style": "path" if self.place.endpoint else "auto"},
                    # Content is hashed by us; not every store knows the newer checksums.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    def pages(self, **options: str) -> Iterator[Mapping[str, Any]]:
        """A listing, page by page; raises as :meth:`answering`."""
        client = self.client
        with self.answering():
            yield from client.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, **options)

    @contextmanager
    def answering(self, missing: AntiphonError | None = None, changed: AntiphonError | None = None) -> Iterator[None]:
        """Run a block of requests to the store and translate its errors.

        Args:
            missing: the error for an object that is not there.
            changed: the error for one that does not meet the request's condition.

        Raises:
            SetupError: there is no such bucket, or it refuses access.
            UnavailableError: it does not answer, or not to the
            end.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            raise self._translated(str(error.response.get("Error", {}).get("Code", "")), missing, changed) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise self._refused("no credentials") from error
        except BotoCoreError as error:
            raise self._away(str(error)[:200]) from error

    def _translated(self, code: str, missing: AntiphonError | None, changed: AntiphonError | None) -> AntiphonError:
        if code == "NoSuchBucket":
            return SetupError(
                f"There is no bucket {self.place.bucket!r} at {self.place.endpoint or 'AWS'}.",
                where=self._role.where,
                next_step=self._role.absent,
            )
        if code in _ABSENT and missing is not None:
            return missing
        if code in ("412", "PreconditionFailed") and changed is not None:
            return changed
        return self._refused(code) if code in _DENIED else self._away(code)

    def close(self) -> None:
        """Close the client's connections."""
        if "client" in self.__dict__:
            self.client.close()

    def _refused(self, why: str) -> SetupError:
        return SetupError(f"{self.place} refuses access: {why}.", where=self._role.where, next_step=self._role.refused)

    def _away(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.place} does not answer: {why}.", where=self._role.where, next_step=self._role.away
        )
