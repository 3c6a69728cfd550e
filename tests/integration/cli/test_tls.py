"""``antiphon tls``, and ``antiphon up`` over https."""

from __future__ import annotations

import json
import ssl
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from tests.chaos.harness.running import supervised
from tests.harness.ports import free_port
from tests.integration.cli.conftest import run_in
from typer.testing import CliRunner

from antiphon.cli import tls
from antiphon.core import settings
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError
from antiphon.core.outgoing import is_loopback
from antiphon.core.tls import gateway_url, own_client
from antiphon.gateway.http.transport_security import require_protection, tls_files
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store


def antiphon(project: Path, *arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.add_typer(tls.app)
    result = CliRunner().invoke(app, ["tls", *arguments, "--project", str(project)])
    if isinstance(result.exception, AntiphonError):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = run_in(tmp_path)("init", "desk", "--port", str(free_port()))
    assert made.code == 0, made.err
    file = tmp_path / "desk" / "antiphon.toml"
    file.write_text(file.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    return tmp_path / "desk"


def test_init_prints_the_section_or_writes_it(project: Path) -> None:
    before = (project / "antiphon.toml").read_text()
    code, out = antiphon(project, "init", "--name", "localhost", "--days", "30")
    assert code == 0
    assert 'certificate = ".antiphon/tls/current/server.crt"' in out
    assert (project / "antiphon.toml").read_text() == before
    with pytest.raises(ConflictError, match="already"):
        antiphon(project, "init")
    assert settings.load(project)[0].tls.certificate is None


def test_written_shown_checked_and_rotated(project: Path) -> None:
    assert antiphon(project, "init", "--write")[0] == 0
    loaded, paths = settings.load(project)
    assert gateway_url(loaded) == f"https://127.0.0.1:{loaded.gateway.port}"
    files = tls_files(loaded.tls, paths.root)
    assert files is not None
    assert files.certificate.exists()
    with pytest.raises(ConflictError, match="section"):
        antiphon(project, "init", "--write")

    code, out = antiphon(project, "check", "--json")
    assert code == 0, out
    assert [finding["check"] for finding in json.loads(out)] == ["key", "dates", "name", "chain"]
    code, out = antiphon(project, "check", "--host", "elsewhere.example")
    assert (code, "not for elsewhere.example" in out) == (7, True)

    shown = json.loads(antiphon(project, "show", "--json")[1])
    assert shown["server"][0]["names"] == ["localhost", "127.0.0.1"]
    rotated = json.loads(antiphon(project, "rotate", "--json")[1])
    assert rotated["fingerprint"] != shown["server"][0]["fingerprint"]
    assert antiphon(project, "check")[0] == 0

    # The key of another certificate: what a hand copying files does.
    current = project / ".antiphon" / "tls" / "current"
    (current / "server.key").write_bytes((current / "client.key").read_bytes())
    code, out = antiphon(project, "check")
    assert (code, "another certificate" in out) == (7, True)


def test_doctor_speaks_of_tls(project: Path) -> None:
    def line() -> dict[str, Any]:
        return next(found for found in json.loads(run_in(project)("doctor", "--json").out) if found["check"] == "tls")

    assert line()["found"] == "plain HTTP on 127.0.0.1"
    antiphon(project, "init", "--write")
    assert line()["found"] == "localhost, 127.0.0.1, 90 days left"
    current = project / ".antiphon" / "tls" / "current"
    (current / "server.key").write_bytes((current / "client.key").read_bytes())
    assert "another certificate" in line()["problem"]


def test_without_certificates_the_commands_say_what_to_do(project: Path) -> None:
    for command in ("show", "check"):
        with pytest.raises(InvalidInputError) as raised:
            antiphon(project, command)
        assert "tls init" in str(raised.value.next_step)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "nowhere.invalid"])
def test_plain_http_stays_on_loopback(project: Path, host: str) -> None:
    assert not is_loopback(host)
    environment = {"ANTIPHON_GATEWAY__HOST": host}
    with pytest.raises(InvalidInputError, match="Plain HTTP") as raised:
        require_protection(settings.load(project, environment)[0])
    assert "tls init" in str(raised.value.next_step)
    require_protection(settings.load(project, {**environment, "ANTIPHON_TLS__ALLOW_PLAIN_HTTP": "true"})[0])
    require_protection(settings.load(project, {"ANTIPHON_GATEWAY__HOST": "localhost"})[0])

    refused = run_in(project)("up", ANTIPHON_GATEWAY__HOST=host)
    assert (refused.code, "Plain HTTP" in refused.err, "Traceback" in refused.err) == (2, True, False)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('certificate = "a"', "`key` is missing"),
        ('client_ca = "a"', "over TLS only"),
        ('certificate = "a"\nkey = "b"\nrequire_client = true', "no authority is set"),
        ('certificate = "a"\nkey = "b"\nclient_ca = "c"\nrequire_client = true', "own probes have none"),
    ],
)
def test_half_a_configuration_is_refused(project: Path, lines: str, told: str) -> None:
    with (project / "antiphon.toml").open("a") as file:
        file.write(f"\n[tls]\n{lines}\n")
    loaded, paths = settings.load(project)
    with pytest.raises(InvalidInputError, match=told) as raised:
        tls_files(loaded.tls, paths.root)
    assert raised.value.next_step


@pytest.mark.parametrize("mutual", [False, True])
async def test_up_serves_https_and_its_own_clients_reach_it(project: Path, mutual: bool) -> None:
    antiphon(project, "init", "--write", *(["--mutual"] if mutual else []))
    loaded, paths = settings.load(project)
    own, url = own_client(loaded, paths.root), gateway_url(loaded)
    assert own is not None
    async with supervised(project, url, verify=own.context()):
        key = (paths.keys / "admin.key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=url, verify=own.context(), headers=headers, timeout=30) as http:
            assert (await http.get("/readyz")).json()["parts"]["certificate"] is None
            body: dict[str, Any] = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Up?"}]}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.load_verify_locations(paths.root / (loaded.tls.authority or ""))
        async with httpx2.AsyncClient(base_url=url, verify=stranger) as http:
            if mutual:
                with pytest.raises((httpx2.TransportError, ssl.SSLError)):  # httpx2 passes a late alert on as it is
                    await http.get("/healthz")
            else:
                assert (await http.get("/healthz")).status_code == 200
    told = [json.loads(line) for line in (project / "up.log").read_text().splitlines() if line.startswith("{")]
    assert [line.get("url") for line in told if line.get("event") == "up"] in ([url], [])


def test_an_expired_certificate_ends_the_start_with_what_to_do(project: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from antiphon.governance.certificates import authority as certificates

    folder = project / ".antiphon" / "tls"
    certificates.init(folder, certificates.CertificateSpec(days=1), datetime.now(UTC) - timedelta(days=3))
    with (project / "antiphon.toml").open("a") as file:
        file.write("\n" + certificates.settings_lines(".antiphon/tls", mutual=False))
    store = Store.open(project)
    try:
        first_key(store)
    finally:
        store.close()
    import subprocess

    ended = subprocess.run(
        [sys.executable, "-m", "antiphon.app.gateway", "--project", str(project)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 7
    assert "expired" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_engines_have_an_authority_of_their_own(project: Path) -> None:
    assert antiphon(project, "init")[0] == 0
    code, out = antiphon(project, "init", "--engines", "--name", "gpu-1.example", "--mutual")
    assert code == 0
    assert "[engine]" in out
    assert 'certificate = ".antiphon/tls/engines/current/server.crt"' in out
    assert "client_ca" not in out, "engines always demand certificates"
    folder = project / ".antiphon" / "tls"
    before = (folder / "current" / "authority.crt").read_bytes()
    assert (folder / "engines" / "current" / "authority.crt").read_bytes() != before
    assert antiphon(project, "rotate", "--engines", "--authority")[0] == 0
    assert (folder / "current" / "authority.crt").read_bytes() == before
    with pytest.raises(ConflictError, match=r"section \[engine\] already"):
        antiphon(project, "init", "--engines", "--write")


def test_before_a_server_at_a_url_they_are_those_of_its_fronts(project: Path) -> None:
    with (project / "antiphon.toml").open("a") as settings:
        settings.write('\n[engines.standby]\nurl = "http://127.0.0.1:9/v1"\n')
    assert antiphon(project, "init", "--engines", "--write")[0] == 0
    section = tomllib.loads((project / "antiphon.toml").read_text())["fronts"]
    assert section["authority"] == ".antiphon/tls/engines/current/authority.crt"
