"""Many streams at once on one gateway process: whether all complete, how soon each begins, what memory they take."""

from __future__ import annotations

import threading
from typing import Any

from benchmarks.gateway.contenders import Contender
from benchmarks.gateway.figures import cpu_seconds, milliseconds, resident_mb
from benchmarks.gateway.load import Load, Loader, Target

SAMPLE_SECONDS = 0.05


def measure(loader: Loader, gateway: Contender, target: Target, streams: int, tokens: int) -> dict[str, Any]:
    """One answer on each of so many connections, all asked at once."""
    loader.send(Load((target,), 4, requests=4, tokens=4, stream=True))
    rest, spent = resident_mb(gateway.pid), cpu_seconds(gateway.pid)
    ended = threading.Event()
    most = [rest]

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            most.append(resident_mb(gateway.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    sent = loader.send(Load((target,), streams, requests=1, tokens=tokens, stream=True))
    ended.set()
    watching.join()
    answers = sent.answers[0]
    return {
        "streams": streams,
        "tokens": tokens,
        "complete": len(answers),
        "refused": sent.refused,
        **({"refusal": sent.example[:200]} if sent.refused else {}),
        "most_open_at_once": sent.most_open,
        "seconds": round(sent.seconds, 2),
        "first_byte_ms": milliseconds([first for first, _ in answers]) if answers else None,
        "last_byte_ms": milliseconds([last for _, last in answers]) if answers else None,
        "gateway_cpu_seconds": round(cpu_seconds(gateway.pid) - spent, 2),
        "resident_mb_at_rest": round(rest, 1),
        "resident_mb_at_most": round(max(most), 1),
        "kb_per_stream": round(1e3 * (max(most) - rest) / streams, 1),
    }
