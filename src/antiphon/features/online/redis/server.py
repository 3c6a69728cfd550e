"""Connection to Redis or Valkey by redis-py: clients, translation of errors, and a check of the eviction policy.

The only file that imports ``redis``. A server that does not answer is retried at most every quarter of a second, so
that requests fail at once instead of each waiting for a timeout.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError, WriteConflictError
from antiphon.core.outgoing import require_no_secret
from antiphon.core.tls import ClientTls, problem_of

TIMEOUT_SECONDS = 2.0
"""Time limit of a connection or an answer; a build waits longer."""

BULK_TIMEOUT_SECONDS = 30.0
_PAUSE_SECONDS = 0.25
_SCHEMES = ("redis", "rediss", "unix")


class RedisServer:
    """One server. Safe to share between threads; connections are opened when they are needed and again after a loss.

    Args:
        url: ``redis://[USER@]HOST:PORT/DATABASE``, ``rediss://`` with TLS, or ``unix:///SOCKET``. No password.
        password: the user's, from wherever secrets are kept.
        tls: whom to trust and what to show, with ``rediss://``; files are read at every connection.
        timeout: seconds for a connection and for an answer.
    """

    def __init__(
        self,
        url: str,
        password: str | None = None,
        *,
        tls: ClientTls = ClientTls(),  # noqa: B008
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        require_url(url)
        self._secure = urlsplit(url).scheme == "rediss"
        if tls != ClientTls() and not self._secure:
            raise InvalidInputError(
                "Certificates are named and the URL does not ask for TLS.",
                where="[features] online",
                next_step="Write rediss://HOST:PORT/DATABASE.",
            )
        self._tls = tls
        self.name = shown(url)
        self._url = url
        self._password = password
        self._timeout = timeout
        self._lock = threading.Lock()
        self._clients: dict[float, Any] = {}
        self._away_until = 0.0
        self._keeps = False

    @property
    def client(self) -> Any:
        """A ``redis.Redis`` for reading and small writes. Use it inside :meth:`answering`."""
        return self._client(self._timeout)

    @property
    def bulk(self) -> Any:
        """One for builds and collections, whose answers may take longer."""
        return self._client(max(self._timeout, BULK_TIMEOUT_SECONDS))

    def _client(self, timeout: float) -> Any:
        with self._lock:
            known = self._clients.get(timeout)
            if known is None:
                known = self._clients[timeout] = self._connect(timeout)
            return known

    def _connect(self, timeout: float) -> Any:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise SetupError(
                "The client of Redis is not installed.", where="online store", next_step="pip install antiphon[redis]"
            ) from error
        secure = self._over_tls() if self._secure else {}
        # A connection that the server closed meanwhile is noticed when it is taken from the pool. One more attempt is
        # for a server that restarts; nothing here changes anything when it is done twice.
        return redis.Redis.from_url(
            self._url,
            password=self._password,
            socket_timeout=timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            **secure,
        )

    def _over_tls(self) -> dict[str, Any]:
        self._tls.context()  # says what is wrong with a file before the library stumbles over it
        files = {"ca_certs": self._tls.authority, "certfile": self._tls.certificate, "keyfile": self._tls.key}
        return {
            **{f"ssl_{name}": str(file) for name, file in files.items() if file is not None},
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": self._tls.check_name,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Run commands; the server's errors come out as ours.

        Raises:
            UnavailableError: it does not answer, is full, is loading, or does not write.
            SetupError: it refuses access, or one side does not take the other's certificate.
            InvalidInputError: a certificate of ours cannot be used.
            WriteConflictError: a key that a transaction watched was changed by somebody else.
        """
        import redis

        if time.monotonic() < self._away_until:
            raise self._away("did not answer a moment ago")
        try:
            yield
        except (redis.WatchError, redis.ConnectionError, redis.TimeoutError, redis.ResponseError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> AntiphonError:
        import redis

        said = str(error)
        refusal = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
        if isinstance(error, refusal) or (isinstance(error, redis.ResponseError) and "NOAUTH" in said):
            return SetupError(
                f"{self.name} refuses access: {_said(error)}.",
                where="online store",
                next_step="Set the environment variable that [features] online_password_variable names, "
                "and the user in the URL.",
            )
        match error:
            case redis.WatchError():
                return WriteConflictError("A key that was watched changed meanwhile.", where="online store")
            case redis.BusyLoadingError():
                return self._away("is loading its data")
            case redis.ReadOnlyError():
                what = "is a replica and takes no writes"
                next_step = "Name the primary in [features] online."
            case redis.ConnectionError() | redis.TimeoutError() | OSError():
                if self._secure:
                    self._tls.context()
                    names = {"authority": "online_authority", "certificate": "online_client_certificate"}
                    problem = problem_of(error, self.name, where="online store", **names)
                    if problem is not None:
                        return problem
                self._away_until = time.monotonic() + _PAUSE_SECONDS
                return self._away("does not answer")
            case _ if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in said:
                what = f"is full: {_said(error)}"
                next_step = "Raise its maxmemory, or keep fewer publications."
            case _ if "MISCONF" in said:
                what = "takes no writes because it cannot write its own disk"
                next_step = "Free its disk, or look at its log."
            case _:
                what = f"refused a command: {_said(error)}"
                next_step = "Redis 7 or Valkey 7.2 and later are supported; see its log."
        return UnavailableError(f"{self.name} {what}.", where="online store", next_step=next_step)

    def walk(self, scan: Callable[..., tuple[int, Any]]) -> Iterator[Any]:
        """Walk over keys, fields or members, some at a time; one of them may come twice. ``scan``: the command that
        tells them, given its cursor."""
        at = 0
        while True:
            with self.answering():
                at, found = scan(cursor=at)
            yield found
            if at == 0:
                return

    def require_keeping(self) -> None:
        """Refuse a server whose eviction policy covers keys without expiry (``SetupError``): it may throw our keys away
        on its own. Asked once."""
        if self._keeps:
            return
        import redis

        with self.answering():
            try:
                found: Mapping[str, Any] = self.client.info("memory")
            except redis.exceptions.NoPermissionError:
                found = {}  # The user may not ask; the settings' page says what is needed.
        policy = str(found.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys"):
            raise SetupError(
                f"{self.name} evicts any key when memory runs out (maxmemory-policy {policy}): values would be missing "
                "without notice.",
                where="online store",
                next_step="Set `maxmemory-policy noeviction`, or a volatile-… one: our keys have no expiry.",
            )
        self._keeps = True

    def describe(self) -> str:
        """Name and version of the server, for ``antiphon doctor``."""
        with self.answering():
            found = self.client.info("server")
        self.require_keeping()
        kind = "Valkey" if "valkey_version" in found else "Redis"
        return f"{kind} {found.get('valkey_version') or found.get('redis_version')} at {self.name}"

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _away(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.name} {why}.",
            where="online store",
            next_step="Start it, or correct [features] online; `antiphon doctor` tells whether it answers."
            + (" If it asks for a certificate, check online_client_certificate." if self._secure else ""),
        )


def _said(error: Exception) -> str:
    """The server's own words, without the command: its arguments are somebody's values, and errors are kept."""
    return str(error).rpartition("caused error: ")[2][:200]


def require_url(url: str) -> None:
    """Refuse a URL that is none of a Redis, holds a password, or changes how certificates are verified
    (``InvalidInputError``)."""
    require_no_secret(url, where="[features] online", variable="online_password_variable")
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidInputError(
            f"{parts.scheme or url!r} is no scheme of an online store.",
            where="[features] online",
            next_step=f"Use one of {', '.join(scheme + '://' for scheme in _SCHEMES)}; without the setting it is LMDB.",
        )
    if "ssl_" in parts.query:
        raise InvalidInputError(
            "The URL changes how certificates are verified.",
            where="[features] online",
            next_step="Use online_authority, online_client_certificate and online_client_key.",
        )


def shown(url: str) -> str:
    """The URL without user and query, for messages."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
