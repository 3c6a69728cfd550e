"""The system's Chromium, started once by a process of pytest: a start takes seconds of a processor.

Each test has a context of its own in it, which shares no cookies, cache or storage with others.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.servers import until

from antiphon.core.child_process import start_child

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

PROGRAM = shutil.which("chromium") or "/usr/bin/chromium"
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--mute-audio", "--password-store=basic", "--use-mock-keychain",
    # What Playwright asks for where it starts one: pictures and widths do not depend on the machine.
    "--hide-scrollbars", "--force-color-profile=srgb", "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding", "--disable-ipc-flooding-protection",
)  # fmt: skip


@cache
def _address() -> str:
    """Where the browser of this process is driven from; starts it."""
    if not Path(PROGRAM).exists():
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    folder = Path(tempfile.mkdtemp(prefix="antiphon-chromium-"))
    process = start_child(
        [PROGRAM, *_OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    atexit.register(_end, process, folder)
    told = folder / "DevToolsActivePort"

    def ready() -> bool:
        assert process.poll() is None, f"{PROGRAM} ended with {process.returncode}"
        return told.exists() and "\n" in told.read_text()

    until(ready)
    return f"http://127.0.0.1:{told.read_text().split()[0]}"


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def browser_context(**options: Any) -> AsyncIterator[BrowserContext]:
    """A new context of the browser, with these options of Playwright's."""
    from playwright.async_api import async_playwright

    address = _address()  # Not in a thread: the child ends with the thread that started it.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        context = await browser.new_context(**options)
        yield context
        await context.close()
        await browser.close()
