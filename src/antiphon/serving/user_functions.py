"""Python functions of the user's own, which guards, metrics and tools name: imported from modules that the process may
import, and called in threads within a bound of time.

Invariant: a module is imported only when the settings name it, for whoever may apply a definition would otherwise run
code of any module in the gateway. A function that does not return keeps its thread; when all are taken, calls are late.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from antiphon.core.errors import SetupError

T = TypeVar("T")

_log = logging.getLogger(__name__)

THREADS = 16


class UserFunctions:
    """Functions by their name, ``module:function``.

    Args:
        modules: that may be imported; what is in a package of this name too.
        folder: where they are looked for beside the installed packages.
        setting: of ``[project]``, which names the modules.
    """

    def __init__(
        self,
        modules: Sequence[str] = (),
        folder: Path | None = None,
        setting: Literal["guard_modules", "tool_modules", "workflow_modules"] = "guard_modules",
    ) -> None:
        self._modules = tuple(modules)
        self._folder = folder
        self._setting = setting
        self._known: dict[str, Callable[..., Any]] = {}
        self._logged: set[tuple[str, type[Exception]]] = set()

    async def call(self, name: str, arguments: Sequence[Any], seconds: float) -> object:
        """Calls a function in a thread and returns its result.

        Raises:
            TimeoutError: it did not return within so many seconds.
            SetupError: its module may not be imported. Anything that importing or calling it raises.
        """
        return await self.run(partial(self.function(name), *arguments), seconds)

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """Runs work in one of the threads; raises ``TimeoutError`` when it is late, and anything that it raises."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        async with asyncio.timeout(seconds):
            return await running

    def function(self, name: str) -> Callable[..., Any]:
        """A function by its name; raises ``SetupError`` when its module may not be imported, and anything that
        importing it raises."""
        if name not in self._known:
            self._known[name] = self._imported(name)
        return self._known[name]

    def log_raised(self, name: str, error: Exception, consequence: str) -> None:
        """Logs the first error of each type that a function raises, with its traceback."""
        if (name, type(error)) not in self._logged:
            self._logged.add((name, type(error)))
            _log.warning("%s raised; %s.", name, consequence, exc_info=error)

    def _imported(self, name: str) -> Callable[..., Any]:
        module, _, inside = name.partition(":")
        if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in self._modules):
            raise SetupError(
                f"Functions of the module {module!r} are not called here.",
                where=f"[project] {self._setting}",
                next_step="Name the module there, on each host.",
            )
        if self._folder is not None and str(self._folder) not in sys.path:
            sys.path.append(str(self._folder))
        found: Any = importlib.import_module(module)
        for part in inside.split("."):
            found = getattr(found, part)
        return cast(Callable[..., Any], found)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="user-function")
