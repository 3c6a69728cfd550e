"""Writes and reads the priority and service level of a request to vLLM, beyond OpenAI's parameters.

``priority`` is vLLM's own parameter: 0 is online, more than 0 is batch, and lower goes first. The service level is in
``vllm_xargs``, seconds under ``antiphon_ttft``, ``antiphon_tpot`` and ``antiphon_latency``, a share under
``antiphon_slowdown``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.service_level import ServiceLevel

_BATCH = 1
_BOUNDS = ("ttft", "tpot", "latency", "slowdown")
_PREFIX = "antiphon_"


def body(priority: Priority, level: ServiceLevel | None) -> dict[str, Any]:
    """The fields of a request's body."""
    fields: dict[str, Any] = {"priority": _BATCH if priority == "batch" else 0}
    bounds = {} if level is None else {name: getattr(level, name) for name in _BOUNDS}
    named = {_PREFIX + name: seconds for name, seconds in bounds.items() if seconds is not None}
    return fields | ({"vllm_xargs": named} if named else {})


def priority_of(number: int) -> Priority:
    """The priority for vLLM's number."""
    return "batch" if number > 0 else "online"


def level_of(extra: Mapping[str, Any] | None) -> ServiceLevel | None:
    """The service level in a request's extra arguments; ``None`` where they name none.

    A bound that is no positive number counts as not named: the server has taken the request already, and a level is a
    wish about others' work, so a request is not failed for it.
    """
    found = {}
    for name in _BOUNDS:
        try:
            seconds = float((extra or {}).get(_PREFIX + name, 0.0))
        except (TypeError, ValueError):
            continue
        if seconds > 0:
            found[name] = seconds
    return ServiceLevel(**found) if found else None
