"""TLS of the gateway: certificates rotated under load, and what TLS costs.

The processes are the real ones with the simulated engine. Rotation: clients of three kinds ask in a closed loop (one
connection kept alive, a new connection for each request, streamed answers) while certificates are rotated; every second
rotation is one of the authority too. A request fails when it has no whole answer of status 200. After each rotation the
time is taken until a new handshake is shown the new certificate.

Cost: the same gateway over plain HTTP and over TLS by turns; a request is ``GET /v1/models`` with a key. Requests a
second are those of a few clients in a closed loop; a handshake is timed from the TCP connection to its end, on one
client, which pays its own half of it on the same machine.

    python -m benchmarks.governance.tls [--size ci|demo|full]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import ssl
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tests.chaos.harness.running import scratch, separate
from tests.harness.ports import free_port

from antiphon.core.tls import gateway_url, own_client
from antiphon.governance.certificates import authority as certificates
from antiphon.services.engines import commands
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store

RESULTS = Path(__file__).parents[1] / "results"
GOAL_SECONDS = 2.0
"""A new certificate is shown within this."""
MODEL = "simulated"
CLIENTS = {"kept alive": 3, "new connection": 2, "streamed": 2}
COST_CLIENTS = 8
SIZES: dict[str, dict[str, float]] = {
    "ci": {"rotations": 10, "seconds": 20, "handshakes": 100, "rounds": 2, "round_seconds": 2},
    "demo": {"rotations": 40, "seconds": 80, "handshakes": 500, "rounds": 4, "round_seconds": 5},
    "full": {"rotations": 200, "seconds": 400, "handshakes": 2_000, "rounds": 8, "round_seconds": 10},
}


@dataclass
class Rotated:
    """What a rotation under load came to."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds_until_shown: list[float] = field(default_factory=list)
    handshakes: int = 0


@asynccontextmanager
async def gateway(root: Path, *, tls: bool, mutual: bool = False) -> AsyncIterator[tuple[Store, str, dict[str, str]]]:
    """A gateway and its engine on a project made here; the store, the URL and the headers with a key."""
    root.mkdir(parents=True, exist_ok=True)
    directory, lines = root / ".antiphon", ""
    if tls:
        certificates.init(directory / "tls", certificates.CertificateSpec(), datetime.now(UTC))
        lines = certificates.settings_lines(".antiphon/tls", mutual=mutual)
    (root / "antiphon.toml").write_text(
        f'[project]\nname = "tls"\n\n[engine]\nkind = "simulated"\nmodels = ["{MODEL}"]\nslots = 8\n\n'
        f"[gateway]\nport = {free_port()}\n\n{lines}",
        encoding="utf-8",
    )
    store = Store.open(root)
    try:
        made = first_key(store)
        key = made[0] if made is not None else (store.paths.keys / "admin.key").read_text(encoding="utf-8").strip()
        url = gateway_url(store.settings)
        async with separate(root, url, commands.command(store), worker=False, verify=verifying(store)):
            yield store, url, {"authorization": f"Bearer {key}"}
    finally:
        store.close()


def verifying(store: Store) -> ssl.SSLContext | bool:
    """How a client verifies this gateway, with the certificates that are there now."""
    client = own_client(store.settings, store.paths.root)
    return True if client is None else client.context()


async def rotate_under_load(root: Path, rotations: int, seconds: float, *, mutual: bool = False) -> Rotated:
    """Rotate so many times in so many seconds while clients ask; with ``mutual`` they show certificates too."""
    found = Rotated()
    stop = asyncio.Event()
    async with gateway(root, tls=True, mutual=mutual) as (store, url, headers):
        folder = store.paths.directory / "tls"

        async def ask(kind: str, client: httpx2.AsyncClient) -> None:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Asked {kind}."}],
                "max_tokens": 24,
                "stream": kind == "streamed",
            }
            answer = await client.post("/v1/chat/completions", json=body)
            whole = not body["stream"] or answer.text.rstrip().endswith("[DONE]")
            if answer.status_code != 200 or not whole:
                raise ValueError(f"{answer.status_code}: {answer.text[:200]}")

        async def clients(kind: str) -> None:
            # Each client keeps the authority of the beginning until the second rotation of it is due.
            kept: httpx2.AsyncClient | None = None
            while not stop.is_set():
                try:
                    if kind == "new connection":
                        context = await asyncio.to_thread(verifying, store)
                        async with httpx2.AsyncClient(
                            base_url=url, headers=headers, verify=context, timeout=20
                        ) as fresh:
                            await ask(kind, fresh)
                        found.handshakes += 1
                    else:
                        if kept is None:
                            kept = httpx2.AsyncClient(
                                base_url=url, headers=headers, verify=verifying(store), timeout=20
                            )
                        await ask(kind, kept)
                    found.answered[kind] += 1
                except (httpx2.HTTPError, ValueError) as error:
                    found.failures.append(f"{kind}: {type(error).__name__}: {error}")
            if kept is not None:
                await kept.aclose()

        async def rotating() -> None:
            for number in range(rotations):
                began = time.monotonic()
                authority = number % 2 == 1
                await asyncio.to_thread(certificates.rotate, folder, datetime.now(UTC), authority=authority)
                wanted = fingerprint((folder / "current" / "server.crt").read_bytes())
                done = time.monotonic()
                while await shown(url, verifying(store) if mutual else None) != wanted and time.monotonic() - done < 10:
                    found.handshakes += 1
                    await asyncio.sleep(0.02)
                found.seconds_until_shown.append(time.monotonic() - done)
                await asyncio.sleep(max(0.0, began + seconds / rotations - time.monotonic()))
            stop.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(rotating())
            for kind, count in CLIENTS.items():
                for _ in range(count):
                    group.create_task(clients(kind))
    return found


async def shown(url: str, verify: ssl.SSLContext | bool | None = None) -> str:
    """The fingerprint of the certificate that a new handshake is shown; not verified unless ``verify`` says how."""
    if isinstance(verify, ssl.SSLContext):
        context = verify
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    parsed = httpx2.URL(url)
    _, writer = await asyncio.open_connection(parsed.host, parsed.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()


def fingerprint(pem: bytes) -> str:
    return x509.load_pem_x509_certificates(pem)[0].fingerprint(hashes.SHA256()).hex()


@dataclass
class Cost:
    """Requests a second of each round, and handshakes in milliseconds."""

    plain: list[float] = field(default_factory=list)
    tls: list[float] = field(default_factory=list)
    handshake_ms: list[float] = field(default_factory=list)
    mutual_handshake_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Requests a second over TLS for each over plain HTTP, on connections that are kept alive."""
        return statistics.median(over / under for over, under in zip(self.tls, self.plain, strict=True))


async def cost(root: Path, handshakes: int, rounds: int, seconds: float) -> Cost:
    """Measure plain and TLS by turns, on gateways that run side by side."""
    found = Cost()
    async with gateway(root / "plain", tls=False) as plain, gateway(root / "tls", tls=True) as over:
        await asyncio.sleep(0)
        for _ in range(rounds):
            found.plain.append(await requests(plain[1], plain[2], verifying(plain[0]), seconds))
            found.tls.append(await requests(over[1], over[2], verifying(over[0]), seconds))
        found.handshake_ms = await handshaken(over[1], verifying(over[0]), handshakes)
    async with gateway(root / "mutual", tls=True, mutual=True) as mutual:
        found.mutual_handshake_ms = await handshaken(mutual[1], verifying(mutual[0]), handshakes)
    return found


async def requests(url: str, headers: dict[str, str], verify: ssl.SSLContext | bool, seconds: float) -> float:
    """Requests a second of a few clients, each on a connection of its own."""
    parsed = httpx2.URL(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET /v1/models HTTP/1.1\r\nhost: {parsed.host}\r\n{lines}\r\n".encode()
    count, end = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection(
            parsed.host, parsed.port, ssl=verify if isinstance(verify, ssl.SSLContext) else None
        )
        while time.monotonic() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head[:100]
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            count += 1
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(COST_CLIENTS)))
    return count / (time.monotonic() - began)


async def handshaken(url: str, verify: ssl.SSLContext | bool, times: int) -> list[float]:
    """Milliseconds of so many full handshakes, one after another."""
    assert isinstance(verify, ssl.SSLContext)
    parsed, found = httpx2.URL(url), []
    for _ in range(times):
        reader, writer = await asyncio.open_connection(parsed.host, parsed.port)
        began = time.perf_counter()
        await writer.start_tls(verify, server_hostname=parsed.host)
        found.append(1e3 * (time.perf_counter() - began))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        del reader
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=tuple(SIZES), default="demo")
    size = parser.parse_args().size
    sample = SIZES[size]
    with scratch() as folder:
        root = Path(folder)
        rotations, seconds = int(sample["rotations"]), sample["seconds"]
        rotated = asyncio.run(rotate_under_load(root / "rotated", rotations, seconds))
        both = asyncio.run(rotate_under_load(root / "both", rotations // 2, seconds / 2, mutual=True))
        spent = asyncio.run(cost(root, int(sample["handshakes"]), int(sample["rounds"]), sample["round_seconds"]))
    shown_after = sorted(rotated.seconds_until_shown + both.seconds_until_shown)
    failures = rotated.failures + both.failures
    rows: list[tuple[str, Any]] = [
        ("rotations", len(shown_after)),
        ("of them with clients' certificates", len(both.seconds_until_shown)),
        ("requests answered", sum((rotated.answered + both.answered).values())),
        ("handshakes", rotated.handshakes + both.handshakes),
        ("failed requests", len(failures)),
        ("new certificate shown after, p50 s", round(statistics.median(shown_after), 3)),
        ("new certificate shown after, longest s", round(shown_after[-1], 3)),
        ("requests/s, plain HTTP", round(statistics.median(spent.plain))),
        ("requests/s, TLS", round(statistics.median(spent.tls))),
        ("TLS for each plain request", round(spent.ratio, 3)),
        ("handshake p50 ms", round(statistics.median(spent.handshake_ms), 2)),
        ("mutual handshake p50 ms", round(statistics.median(spent.mutual_handshake_ms), 2)),
    ]
    for name, value in rows:
        print(f"{name:<42}{value:>10}")
    for failure in failures[:5]:
        print(f"  {failure}")
    summary = {
        "benchmark": "tls",
        "at": datetime.now(UTC).isoformat(),
        "machine": platform.processor() or platform.machine(),
        "size": size,
        **dict(rows),
        "answered": dict(rotated.answered + both.answered),
        "plain_rounds": [round(value) for value in spent.plain],
        "tls_rounds": [round(value) for value in spent.tls],
        "met": not failures and shown_after[-1] <= GOAL_SECONDS,
    }
    line = json.dumps(summary)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "tls.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
