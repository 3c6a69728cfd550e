"""The proxy before a server: passes bytes through, and delays, resets or holds them for as long as a fault lasts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.harness.ports import free_port
from tests.integration.operations.chaos.test_guardians import RUNNER, ends, until

from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.core.settings_processes import ProxySettings
from antiphon.operations.chaos.faults import GuardedFault, ProxyLatency, ProxyPartition, ProxyReset
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import FaultOrder
from antiphon.operations.chaos.proxy_control import ProxyInjector, proxies_that_answer
from antiphon.operations.chaos.tcp_proxy import serving

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
WITHIN = 20.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


@asynccontextmanager
async def proxied(run: Path) -> AsyncIterator[int]:
    """A server that echoes behind a proxy named ``echo``; the proxy's port."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    own = free_port()
    addresses = {"echo": ProxySettings(f"127.0.0.1:{own}", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")}
    async with server, serving(addresses, run, run):
        yield own


async def exchange(streams: Streams, sent: bytes) -> bytes:
    reader, writer = streams
    writer.write(sent)
    await writer.drain()
    return await asyncio.wait_for(reader.readexactly(len(sent)), WITHIN)


def order(run: Path, fault: GuardedFault) -> FaultOrder:
    return FaultOrder("it", "fault", fault, "", str(run), str(run), str(run))


async def test_bytes_pass_in_both_directions_and_ends_do_too(tmp_path: Path) -> None:
    async with proxied(tmp_path) as port:
        streams = await asyncio.open_connection("127.0.0.1", port)
        sent = bytes(range(256)) * 8_000
        assert await exchange(streams, sent) == sent
        streams[1].write_eof()
        assert await asyncio.wait_for(streams[0].read(), WITHIN) == b""
        streams[1].close()
        assert await asyncio.to_thread(proxies_that_answer, tmp_path) == {"echo": "other"}
    assert await asyncio.to_thread(proxies_that_answer, tmp_path) == {}


async def test_bytes_are_late_and_in_order_while_a_delay_lasts(tmp_path: Path) -> None:
    async with proxied(tmp_path) as port:
        streams = await asyncio.open_connection("127.0.0.1", port)
        async with guarded(order(tmp_path, ProxyLatency("echo", "600s", "100ms", "50ms"))):
            began = time.monotonic()
            sent = bytes(range(256)) * 2_000
            assert await exchange(streams, sent) == sent
            assert time.monotonic() - began >= 0.2, "both directions"
        began = time.monotonic()
        await exchange(streams, b"quick")
        assert time.monotonic() - began < 0.2
        streams[1].close()


async def test_connections_are_reset_and_made_again_afterwards(tmp_path: Path) -> None:
    async with proxied(tmp_path) as port:
        streams = await asyncio.open_connection("127.0.0.1", port)
        await exchange(streams, b"before")
        async with guarded(order(tmp_path, ProxyReset("echo", "600s"))):
            with pytest.raises(ConnectionError):
                await exchange(streams, b"there was one")
            fresh = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await exchange(fresh, b"and a new one")
        again = await asyncio.open_connection("127.0.0.1", port)
        assert await exchange(again, b"after") == b"after"
        for _, writer in (streams, fresh, again):
            writer.close()


async def test_a_partition_holds_what_was_sent_and_is_over_when_the_runner_is_killed(tmp_path: Path) -> None:
    async with proxied(tmp_path) as port:
        streams = await asyncio.open_connection("127.0.0.1", port)
        await exchange(streams, b"before")
        pipe = asyncio.subprocess.PIPE
        runner = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, stdin=pipe, stdout=pipe)
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(msgspec.json.encode(order(tmp_path, ProxyPartition("echo", "600s"))) + b"\n")
        assert (await runner.stdout.readline()).startswith(b"begun")
        streams[1].write(b"during")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[0].read(6), 0.3)
        fresh = await asyncio.open_connection("127.0.0.1", port)  # Not refused: nobody answers.
        runner.kill()
        await runner.wait()
        assert await asyncio.wait_for(streams[0].readexactly(6), WITHIN) == b"during"
        assert await exchange(fresh, b"after") == b"after"
        for _, writer in (streams, fresh):
            writer.close()
    await asyncio.to_thread(until, lambda: ends(tmp_path) == ["the runner is gone"])


async def test_a_proxy_has_one_fault_at_a_time_and_refuses_what_it_has_not(tmp_path: Path) -> None:
    async with proxied(tmp_path):
        first = ProxyInjector(ProxyPartition("echo", "600s"), tmp_path)
        await asyncio.to_thread(first.begin)
        for name, told in (("echo", "is broken already"), ("redis", "no proxy 'redis'")):
            with pytest.raises(UnavailableError, match=told):
                await asyncio.to_thread(ProxyInjector(ProxyPartition(name, "1s"), tmp_path).begin)
        first.end()


async def test_a_proxy_that_cannot_be_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No proxy is declared"):
        async with serving({}, tmp_path, tmp_path):
            pass
    async with proxied(tmp_path) as port:
        taken = {"other": ProxySettings(f"127.0.0.1:{port}", "127.0.0.1:1")}
        with pytest.raises(SetupError, match="cannot listen"):
            async with serving(taken, tmp_path / "other", tmp_path):
                pass
