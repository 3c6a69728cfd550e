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

from antiphon.services.moving.settings_file import EMBEDDED

_DATABASES, _LAKES = ("postgres", "there"), ("lake", "lake-there")
_PASSWORD, _ACCESS_KEY, _SECRET_KEY = "CHAOS_CATALOG_PASSWORD", "CHAOS_ACCESS_KEY", "CHAOS_SECRET_KEY"
_CATALOG = """
[supervision]
longest_wait = "1s"

[catalog]
url = "{url}"
password_variable = "{variable}"
connections = 5
"""
_NETWORK = """
[tls]
allow_plain_http = true
"""
_FEATURES = """
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
    """The catalog's server, and in ``networks`` those of features too; :meth:`start` them, then :meth:`remove` them.

    Args:
        catalog_alone: no servers of features in networks either: hosts share folders.
    """

    def __init__(self, networks: Network | None, *, catalog_alone: bool = False) -> None:
        where: dict[str, Any] = {} if networks is None else {"address": SERVERS, "under": networks.under(-1)}
        more = networks is not None and not catalog_alone
        self._network = networks is not None
        self.postgres = PostgresProcess(durable=True, **where)
        self._redis = RedisProcess("redis-server", "--appendonly", "yes", **where) if more else None
        self._objects = S3Process(**where) if more else None
        self._nats = NatsProcess(**where) if more else None

    @property
    def all(self) -> tuple[ServerProcess, ...]:
        """Those that there are, the catalog's first."""
        return tuple(one for one in (self.postgres, self._redis, self._nats, self._objects) if one is not None)

    @property
    def place(self) -> str:
        """The address of the catalog, for oracles."""
        return self.place_of(0)

    def place_of(self, number: int) -> str:
        """The same, of the stores with this number."""
        return f"{self.postgres.url_with_password.rpartition('/')[0]}/{_DATABASES[number]}?sslmode=disable"

    def database_of(self, number: int) -> str:
        """The name of the catalog's database in the stores with this number."""
        return _DATABASES[number]

    @property
    def stores(self) -> tuple[dict[str, str], dict[str, str]]:
        """Store to its URL: where the project is at first, and where else it may be moved to. Catalogs are databases
        of one server, and events are in NATS here and in the catalog there."""
        catalogs = [f"{self.postgres.url.rpartition('/')[0]}/{name}{self._verified}" for name in _DATABASES]
        here, there = ({"catalog": url} for url in catalogs)
        if self._objects is None or self._redis is None or self._nats is None:
            return here, there
        for number, one in enumerate((here, there)):
            for store, folder in (("lake", _LAKES[number]), ("files", ("files", "files-there")[number])):
                one[store] = f"s3://{self._objects.bucket}/{folder}?endpoint={self._objects.endpoint}"
            one["online"] = f"{self._redis.url.rpartition('/')[0]}/{number}"
        return {**here, "log": self._nats.url}, {**there, "log": EMBEDDED}

    @property
    def _verified(self) -> str:
        return "?sslmode=disable" if self._network else ""

    @property
    def settings(self) -> str:
        """Sections of the project's settings."""
        stores, _ = self.stores
        sections = _CATALOG.format(url=stores["catalog"], variable=_PASSWORD) + (_NETWORK if self._network else "")
        if len(stores) == 1:
            return sections
        return sections + _FEATURES.format(**stores, access=_ACCESS_KEY, secret=_SECRET_KEY)

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

    def make_room(self) -> None:
        """Make the place where the project may be moved to."""
        self.postgres.run(f"CREATE DATABASE {_DATABASES[1]}")

    def restart(self, number: int) -> str:
        """End one of them by turns and start it again; its name."""
        server = self.all[number % len(self.all)]
        server.end(signal.SIGINT if server is self.postgres else signal.SIGTERM)
        server.start()
        return type(server).__name__.removesuffix("Process").lower()

    def found(self, directory: Path, number: int = 0) -> dict[str, Any]:
        """The fields of ``Evidence`` that come from the stores of a project in a directory.

        Args:
            number: of the stores in :attr:`stores`.
        """
        catalog = chaos_evidence.read_server(self.place_of(number))
        if self._redis is None or self._objects is None or self._nats is None:
            return {**catalog, **chaos_evidence.read_files(directory, catalog["snapshots"])}
        manifests: Mapping[str, Any] = catalog["snapshots"]
        found = {
            **catalog,
            "lake": _lake(self._objects, manifests, _LAKES[number]),
            "online": _online(self._redis, manifests, number),
        }
        return found if number else {**found, "events": tuple(_events(self._nats))}

    def remove(self) -> None:
        with ExitStack() as stack:
            for server in self.all:
                stack.callback(server.remove)


@contextmanager
def shared_servers(networks: Network | None, *, catalog_alone: bool = False) -> Iterator[SharedServers]:
    """The servers for as long as the block lasts, in the servers' network where there are networks."""
    made = SharedServers(networks, catalog_alone=catalog_alone)
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


def _lake(server: S3Process, manifests: Mapping[str, Any], folder: str) -> dict[str, FoundFile]:
    client, files = server.client(), dict[str, FoundFile]()
    digests: dict[str, str | None] = {}
    for identity, manifest in manifests.items():
        for file in manifest["files"]:
            path = file["path"]
            if path not in digests:
                try:
                    content = client.get_object(Bucket=server.bucket, Key=f"{folder}/{path}")["Body"].read()
                    digests[path] = hashlib.sha256(content).hexdigest()
                except client.exceptions.NoSuchKey:
                    digests[path] = None
            files[f"{identity}/{path}"] = FoundFile(digests[path] is not None, digests[path] == file["sha256"])
    return files


def _online(server: RedisProcess, manifests: Mapping[str, Any], database: int) -> dict[str, FoundFile]:
    """A snapshot is there once it is sealed; what its values are is seen by the features that were settled."""
    import redis

    with redis.Redis(server.address, server.port, db=database) as client:
        sealed = {}
        for identity, manifest in manifests.items():
            scope = manifest["scope"]
            key = f"{scope['tenant']}:{scope['environment']}:{manifest['view']}:{identity}:seal"
            sealed[identity] = bool(client.exists(key))
    return {identity: FoundFile(there, there) for identity, there in sealed.items()}
