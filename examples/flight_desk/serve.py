"""``python -m examples.flight_desk.serve``: the platform on the flight desk's project, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import datetime

from antiphon.core.errors import AntiphonError
from examples.flight_desk import data, host, settings
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.run import OUT, Steps


def main() -> int:
    """Prepare, start, wait for a signal, drain; returns the exit code."""
    say = Steps()
    declared = settings.load()
    start = declared.start(declared.demo)
    try:
        events = data.prepare(OUT / "events", declared.sources, declared.zone)
        with host.running(host.prepare(OUT / "serve", events, start), say) as platform:
            asyncio.run(_refresh(platform, start))
            say(f"Ask with as_of between {start.isoformat()} and three hours later; Ctrl-C stops.")
            say(f"dashboard: {platform.url}   key: {platform.key}")
            while True:
                signal.pause()  # Until SIGINT or SIGTERM unwinds this.
    except KeyboardInterrupt:
        return 0
    except AntiphonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


async def _refresh(platform: Platform, start: datetime) -> None:
    async with Desk(platform) as desk:
        await desk.refresh(start)


if __name__ == "__main__":
    sys.exit(main())
