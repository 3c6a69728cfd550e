"""The servers that hosts share: PostgreSQL for the catalog alone, or with it Redis, an object store and NATS.

Each has what the project needs to be told, and tells afterwards what is in it, in the terms of ``chaos_evidence``.
"""

from __future__ import annotations

import base64
import hashlib
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.harness import chaos_evidence
from tests.chaos.harness.chaos_evidence import FoundFile, opened
from tests.chaos.harness.chaos_project import STREAM
from tests.chaos.harness.network import SERVERS, Network
from tests.servers import NatsProcess, PostgresProcess, RedisProcess, S3Process, ServerProcess

_PASSWORD, _ACCESS_KEY, _SECRET_KEY = "CHAOS_CATALOG_PASSWORD", "CHAOS_ACCESS_KEY", "CHAOS_SECRET_KEY"
_CATALOG = """
[supervision]
longest_wait = "1s"

[catalog]
url = "{url}"
password_variable = "{variable}"
connections = 5
"""
_FEATURES = """
[tls]
allow_plain_http = true

[batch]
files = "{files}"
files_access_key_variable = "{access}"
files_secret_key_variable = "{secret}"

[features]
online = "{online}"
log = "{log}"
lake = "{lake}"
lake_access_key_variable = "{access}"
lake_secret_key_variable = "{secret}"
"""


class SharedServers:
    """The catalog's server, and in ``networks`` those of features too; :meth:`start` them, then :meth:`remove` them."""

    def __init__(self, networks: Network | None) -> None:
        where: dict[str, Any] = {} if networks is None else {"address": SERVERS, "under": networks.under(-1)}
        self.postgres = PostgresProcess(durable=True, **where)
        self._redis = None if networks is None else RedisProcess("redis-server", "--appendonly", "yes", **where)
        self._objects = None if networks is None else S3Process(**where)
        self._nats = None if networks is None else NatsProcess(**where)

    @property
    def all(self) -> tuple[ServerProcess, ...]:
        """Those that there are, the catalog's first."""
        return tuple(one for one in (self.postgres, self._redis, self._nats, self._objects) if one is not None)

    @property
    def place(self) -> str:
        """The address of the catalog, for oracles."""
        return f"{self.postgres.url_with_password}?sslmode=disable"

    @property
    def settings(self) -> str:
        """Sections of the project's settings."""
        verified = "" if self._objects is None else "?sslmode=disable"
        catalog = _CATALOG.format(url=self.postgres.url + verified, variable=_PASSWORD)
        if self._objects is None or self._redis is None or self._nats is None:
            return catalog
        endpoint, bucket = self._objects.endpoint, self._objects.bucket
        return catalog + _FEATURES.format(
            online=self._redis.url, log=self._nats.url, lake=f"s3://{bucket}/lake?endpoint={endpoint}",
            files=f"s3://{bucket}/files?endpoint={endpoint}", access=_ACCESS_KEY, secret=_SECRET_KEY,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """The credentials that the settings name."""
        return {
            _PASSWORD: self.postgres.password,
            _ACCESS_KEY: S3Process.access_key,
            _SECRET_KEY: S3Process.secret_key,
        }

    def start(self) -> None:
        for server in self.all:
            server.start()
        if self._objects is not None:
            self._objects.make_bucket()

    def restart(self, number: int) -> str:
        """End one of them by turns and start it again; its name."""
        server = self.all[number % len(self.all)]
        server.end(signal.SIGINT if server is self.postgres else signal.SIGTERM)
        server.start()
        return type(server).__name__.removesuffix("Process").lower()

    def found(self, directory: Path) -> dict[str, Any]:
        """The fields of ``Evidence`` that come from the stores of a project in a directory."""
        catalog = chaos_evidence.read_server(self.place)
        if self._redis is None or self._objects is None or self._nats is None:
            return {**catalog, **chaos_evidence.read_files(directory, catalog["snapshots"])}
        manifests: Mapping[str, Any] = catalog["snapshots"]
        return {
            **catalog,
            "events": tuple(_events(self._nats)),
            "lake": _lake(self._objects, manifests),
            "online": _online(self._redis, manifests),
        }

    def remove(self) -> None:
        with ExitStack() as stack:
            for server in self.all:
                stack.callback(server.remove)


@contextmanager
def shared_servers(networks: Network | None) -> Iterator[SharedServers]:
    """The servers for as long as the block lasts, in the servers' network where there are networks."""
    made = SharedServers(networks)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def _events(server: NatsProcess) -> Iterator[tuple[int, str, str, int]]:
    """Each message of the log, asked for by its sequence."""
    (name,) = (one for one in server.ask("$JS.API.STREAM.NAMES")["streams"] if one.endswith(f"_{STREAM}"))
    for number in range(1, server.ask(f"$JS.API.STREAM.INFO.{name}")["state"]["last_seq"] + 1):
        message = server.ask(f"$JS.API.STREAM.MSG.GET.{name}", seq=number)["message"]
        identity, _, _, payload, *_ = opened(base64.b64decode(message["data"]))
        yield message["seq"], identity, payload["shop"], int(payload["amount"])


def _lake(server: S3Process, manifests: Mapping[str, Any]) -> dict[str, FoundFile]:
    client, files = server.client(), dict[str, FoundFile]()
    digests: dict[str, str | None] = {}
    for identity, manifest in manifests.items():
        for file in manifest["files"]:
            path = file["path"]
            if path not in digests:
                try:
                    content = client.get_object(Bucket=server.bucket, Key=f"lake/{path}")["Body"].read()
                    digests[path] = hashlib.sha256(content).hexdigest()
                except client.exceptions.NoSuchKey:
                    digests[path] = None
            files[f"{identity}/{path}"] = FoundFile(digests[path] is not None, digests[path] == file["sha256"])
    return files


def _online(server: RedisProcess, manifests: Mapping[str, Any]) -> dict[str, FoundFile]:
    """A snapshot is there once it is sealed; what its values are is seen by the features that were settled."""
    import redis

    with redis.Redis.from_url(server.url) as client:
        sealed = {}
        for identity, manifest in manifests.items():
            scope = manifest["scope"]
            key = f"{scope['tenant']}:{scope['environment']}:{manifest['view']}:{identity}:seal"
            sealed[identity] = bool(client.exists(key))
    return {identity: FoundFile(there, there) for identity, there in sealed.items()}
