"""Real servers for tests: each on a free port of loopback, in a folder of its own, ended by its process id.

A server that is not installed skips the test; with ANTIPHON_REQUIRE_SERVERS=1 it fails it. ``scripts/servers`` installs
them.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

STARTS_WITHIN = 30.0
LOOPBACK = "127.0.0.1"
_SBIN = ("/usr/sbin", "/usr/local/sbin")


def program(name: str, *folders: str) -> str:
    """Where a server's program is; without it the test is skipped, or fails when servers are required."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN, *folders]))
    if found is None:
        import pytest  # Not above: processes that tests start load this module as well.

        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{name} is not installed; run scripts/servers")
        pytest.skip(f"{name} is not installed; run scripts/servers")
    return found


def until(condition: Callable[[], object], within: float = STARTS_WITHIN) -> None:
    """Wait for a condition; an assertion when it does not come true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@cache
def _kept() -> Path:
    """A folder for what servers of this process of Python begin with; it ends with the process."""
    folder = Path(tempfile.mkdtemp(prefix="antiphon-servers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class ServerProcess:
    """One server, started by :meth:`start` and ended by :meth:`stop` or :meth:`kill`; it may be started again. As a
    context it runs for as long as the block lasts.

    Args:
        address: where it listens. ``under``: a command that becomes it, in the network that has this address.
    """

    def __init__(self, prefix: str, address: str = LOOPBACK, under: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"antiphon-{prefix}-"))
        self.port = free_port()
        self.address = address
        self.under = tuple(under)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def begin_with(self, name: str, make: Callable[[], object]) -> None:
        """Have a folder ``name`` as ``make`` makes it: the first server of a kind makes it, others get a copy, which
        takes a tenth of the time."""
        kept, own = _kept() / f"{type(self).__name__}-{name}", self.folder / name
        made = kept.exists()
        if not made:
            make()
        subprocess.run(["cp", "-a", *((kept, own) if made else (own, kept))], check=True, timeout=120)

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        with socket.socket() as trial:
            trial.settimeout(1)
            return trial.connect_ex((self.address, self.port)) == 0

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        with log:
            self.process = start_child(
                [*self.under, *self.command()], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self._answers_or_ended)

    def _answers_or_ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.command()[0]} ended: {(self.folder / 'log').read_text()[-2000:]}")
        return self.answers()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def pause(self) -> None:
        """Stop every thread of it, and return once they have: until then it may answer once more."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task")
        until(lambda: all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads.iterdir()))

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: int) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None

    def remove(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=30)
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisProcess(ServerProcess):
    """``redis-server`` or ``valkey-server``, in memory alone unless it is asked to save."""

    def __init__(
        self, program_name: str = "redis-server", *options: str, address: str = LOOPBACK, under: Sequence[str] = ()
    ) -> None:
        self.program = program(program_name)
        super().__init__(program_name.partition("-")[0], address, under)
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"

    def command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", self.address, "--dir", str(self.folder)]
        if self.address != LOOPBACK:  # It has no password here, and only the hosts of a test reach it.
            place += ["--protected-mode", "no"]
        return [self.program, *place, "--save", "", *self.options]

    def answers(self) -> bool:
        import redis

        with redis.Redis(self.address, self.port, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False


class NatsProcess(ServerProcess):
    """``nats-server`` with JetStream; with a token when one is given."""

    def __init__(
        self, *options: str, jetstream: bool = True, address: str = LOOPBACK, under: Sequence[str] = ()
    ) -> None:
        self.program = program("nats-server")
        super().__init__("nats", address, under)
        self.options = [*(["-js", "-sd", str(self.folder / "store")] if jetstream else []), *options]

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{self.port}"

    def command(self) -> list[str]:
        return [self.program, "-a", self.address, "-p", str(self.port), *self.options]

    def ask(self, subject: str, **body: object) -> dict[str, Any]:
        """One request of its interface, over a connection of its own: to do behind the log's back what must not be."""
        import json

        return self.put(subject, json.dumps(body).encode())

    def clear(self) -> None:
        """Delete every stream, until the server lists none: of a busy one one was there again after it was deleted."""

        def gone() -> bool:
            names = self.ask("$JS.API.STREAM.NAMES").get("streams") or ()
            for name in names:
                with contextlib.suppress(AssertionError):  # It is gone by now.
                    self.ask(f"$JS.API.STREAM.DELETE.{name}")
            return not names

        until(gone)

    def put(self, subject: str, content: bytes) -> dict[str, Any]:
        """Send these bytes to a subject; what is answered."""
        import json

        with socket.create_connection((self.address, self.port), timeout=10) as line, line.makefile("rb") as said:
            line.sendall(b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n')
            line.sendall(f"PUB {subject} answer {len(content)}\r\n".encode() + content + b"\r\n")
            for row in said:
                if row.startswith(b"MSG"):
                    found: dict[str, Any] = json.loads(said.read(int(row.split()[-1])))
                    assert "error" not in found, found
                    return found
        raise AssertionError("it did not answer")


class AlertmanagerProcess(ServerProcess):
    """``alertmanager`` of Prometheus, by itself, which notifies nobody."""

    def __init__(self) -> None:
        self.program = program("prometheus-alertmanager" if shutil.which("prometheus-alertmanager") else "alertmanager")
        super().__init__("alertmanager")
        (self.folder / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def command(self) -> list[str]:
        return [
            self.program, "--config.file=alertmanager.yml", f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address={self.address}:{self.port}", "--cluster.listen-address=",
        ]  # fmt: skip

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=1)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def forget(self) -> None:
        """Remove what it keeps, while it does not run."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)


class S3Process(ServerProcess):
    """``radosgw`` alone, on its SQLite-backed store, with two users: one that owns ``bucket`` and one that does not."""

    access_key, secret_key = "LAKEACCESSKEY", "lakesecretkey"
    other_access_key, other_secret_key = "OTHERACCESSKEY", "othersecretkey"
    bucket = "lake"

    def __init__(self, address: str = LOOPBACK, under: Sequence[str] = ()) -> None:
        self.program = program("radosgw")
        self.admin = program("radosgw-admin")
        super().__init__("radosgw", address, under)
        for folder in ("db", "data", "run"):
            (self.folder / folder).mkdir()
        self.configuration = self.folder / "ceph.conf"
        self.configuration.write_text(
            f"""[global]
fsid = 7b0a9f0e-6d1c-4f7e-9d64-8f3f0f0c5a11
mon_host = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
rgw backend store = dbstore
rgw config store = dbstore
dbstore db dir = {self.folder}/db
rgw data = {self.folder}/data
run dir = {self.folder}/run
admin socket = {self.folder}/run/admin.asok
log file = {self.folder}/rgw.log
rgw frontends = beast endpoint={address}:{self.port}
"""
        )
        for name, access, secret in (
            ("lake", self.access_key, self.secret_key),
            ("other", self.other_access_key, self.other_secret_key),
        ):
            self._make_user(name, access, secret)

    def _make_user(self, name: str, access: str, secret: str) -> None:
        """Its administration sometimes hangs after it has done what it was asked, so it is not waited for then."""
        said = self.folder / f"user-{name}.json"
        with said.open("wb") as out, (self.folder / "admin.log").open("ab") as log:
            admin = start_child(
                [self.admin, *self._options, "user", "create", "--uid", name, "--display-name", name,
                 "--access-key", access, "--secret", secret],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log,
            )  # fmt: skip
        try:
            until(lambda: admin.poll() is not None or said.read_bytes().rstrip().endswith(b"}"))
            assert secret.encode() in said.read_bytes(), (self.folder / "admin.log").read_text()[-2000:]
        finally:
            if admin.poll() is None:
                admin.kill()
            admin.wait(timeout=30)

    @property
    def _options(self) -> list[str]:
        return ["-c", str(self.configuration), "-n", "client.rgw.test", "--no-mon-config"]

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/features?endpoint={self.endpoint}"

    def command(self) -> list[str]:
        return [self.program, *self._options, "-f"]

    def answers(self) -> bool:
        """It listens before it serves, and hangs up on who asks in between."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(self.address, self.port, timeout=1)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
                return True
        return False

    def client(self) -> Any:
        """The owner's view of the store, to look behind the lake."""
        from boto3.session import Session

        return Session().client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
        )  # fmt: skip

    def make_bucket(self) -> None:
        self.client().create_bucket(Bucket=self.bucket)

    def contents(self, prefix: str) -> list[bytes]:
        """Every object below a prefix."""
        client = self.client()
        found = client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read() for item in found]


class PostgresProcess(ServerProcess):
    """``postgres`` with one user that has a password; it flushes to disk only when it is to be ``durable``.

    Args:
        of: the server that this one is a standby of; that one runs.
    """

    user, password = "antiphon", "hunter2 with @ and /"

    def __init__(
        self,
        *,
        durable: bool = False,
        certificate: tuple[Path, Path] | None = None,
        address: str = LOOPBACK,
        under: Sequence[str] = (),
        of: PostgresProcess | None = None,
    ) -> None:
        self.durable = durable
        self.tls: dict[str, str] = {}
        homes = sorted(str(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin"))
        self.program = program("postgres", *homes)
        super().__init__("postgres", address, under)
        home = Path(self.program).resolve().parent
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # It refuses to be root; who changes the user loses the signal of a dead parent.
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"]
        if self._as_user:
            shutil.chown(self.folder, "postgres", "postgres")
        if of is None:
            self.begin_with("cluster", lambda: self._run_program(home, self._initialized()))
        else:
            self._run_program(home, self._copied(of))
        if address != LOOPBACK:
            with (self.folder / "cluster" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")
        for name, file in zip(("ssl_cert_file", "ssl_key_file"), certificate or (), strict=False):
            own = self.folder / file.name  # It insists on files of its own user.
            own.write_bytes(file.read_bytes())
            own.chmod(0o600)
            if self._as_user:
                shutil.chown(own, "postgres", "postgres")
            self.tls |= {"ssl": "on", name: str(own)}

    def _initialized(self) -> list[str]:
        word = self.folder / "word"
        word.write_text(self.password)
        if self._as_user:
            shutil.chown(word, "postgres", "postgres")
        return [
            "initdb", "-D", str(self.folder / "cluster"), "-U", self.user, "-E", "UTF8", "--locale=C",
            "--auth=scram-sha-256", f"--pwfile={word}", "--no-sync",
        ]  # fmt: skip

    def _copied(self, primary: PostgresProcess) -> list[str]:
        """A copy that follows the server it is of."""
        return [
            "pg_basebackup", "-D", str(self.folder / "cluster"), "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-d", primary.url_with_password,
        ]  # fmt: skip

    def _run_program(self, home: Path, command: list[str]) -> None:
        made = subprocess.run(
            [*self._as_user, str(home / command[0]), *command[1:]],
            capture_output=True, text=True, timeout=120, cwd=self.folder,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr[-2000:]

    @property
    def url(self) -> str:
        """Without the password."""
        return f"postgresql://{self.user}@{self.address}:{self.port}/postgres"

    @property
    def url_with_password(self) -> str:
        """For drivers."""
        from urllib.parse import quote

        return self.url.replace("@", f":{quote(self.password, safe='')}@", 1)

    def command(self) -> list[str]:
        options = {
            "listen_addresses": self.address, "port": str(self.port), "unix_socket_directories": str(self.folder),
            "fsync": "on" if self.durable else "off", "shared_buffers": "32MB",
            "dynamic_shared_memory_type": "mmap",  # What one that is killed leaves is its folder's.
            **self.tls,
        }  # fmt: skip
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_user, self.program, "-D", str(self.folder / "cluster"), *settings]

    def answers(self) -> bool:
        try:
            return self.run("SELECT 1") == [(1,)]
        except Exception:
            return False

    def run(self, *statements: str) -> list[Any]:
        """Run statements one after the other; the rows of the last one."""
        from adbc_driver_postgresql import dbapi

        with (
            dbapi.connect(f"{self.url_with_password}?connect_timeout=2", autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
