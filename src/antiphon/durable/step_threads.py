"""Threads of steps, one each: those that hang take none from heartbeats, claims and other steps.

The event loop's own pool has a few threads for everything. Of six on two cores, six steps that hang would leave none
for the heartbeats of all other runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor as ThreadExecutor
from concurrent.futures import Future
from typing import Any


class StepThreads(ThreadExecutor):
    """Calls each function in a new thread, which does not keep the process from ending."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Begin a call; returns the future of its result."""
        called: Future[Any] = Future()
        threading.Thread(target=self._call, args=(called, fn, args, options), name="step", daemon=True).start()
        return called

    @staticmethod
    def _call(called: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not called.set_running_or_notify_cancel():
            return
        try:
            result = fn(*args, **options)
        except BaseException as error:
            called.set_exception(error)
        else:
            called.set_result(result)
