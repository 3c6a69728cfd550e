"""Guards in Python: functions of modules that the process may import, called in threads and within a bound of time.

Invariant: a module is imported only when the settings name it, for whoever may apply a definition would otherwise run
code of any module in the gateway. A function that does not return keeps its thread; when all are taken, texts do not
pass.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from antiphon.core.errors import SetupError

_log = logging.getLogger(__name__)

THREADS = 8


class GuardFunctions:
    """Functions of guards by name.

    Args:
        modules: that may be imported; what is in a package of this name too.
        folder: where they are looked for beside the installed packages.
    """

    def __init__(self, modules: Sequence[str] = (), folder: Path | None = None) -> None:
        self._modules = tuple(modules)
        self._folder = folder
        self._known: dict[str, Callable[..., object]] = {}
        self._logged: set[tuple[str, type[Exception]]] = set()

    async def reason(self, name: str, text: str, request: Mapping[str, Any], seconds: float) -> str | None:
        """The reason for which a function does not let a text pass; ``None``: it passes. Never raises: the
        first error of each type that a function raises is logged with its traceback."""
        try:
            said = await self.call(name, (text, request), seconds)
        except TimeoutError:
            return f"{name} did not answer within {seconds:g} s"
        except Exception as error:
            if (name, type(error)) not in self._logged:
                self._logged.add((name, type(error)))
                _log.warning("The guard's function %s raised; no text passes it.", name, exc_info=error)
            return f"{name} raised {type(error).__name__}"
        if said is None or said is True:
            return None
        return said if isinstance(said, str) and said else f"{name} said no"

    async def call(self, name: str, arguments: Sequence[Any], seconds: float) -> object:
        """Calls a function in a thread and returns its result.

        Raises:
            TimeoutError: it did not return within so many seconds.
            SetupError: its module may not be imported. Anything that importing or calling it raises.
        """
        function = self._function(name)
        running = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        async with asyncio.timeout(seconds):
            return await running

    def _function(self, name: str) -> Callable[..., object]:
        if name not in self._known:
            self._known[name] = imported(name, self._modules, self._folder, "guard_modules")
        return self._known[name]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="guard")


def imported(name: str, modules: Sequence[str], folder: Path | None, setting: str) -> Callable[..., Any]:
    """The function ``module:function``, of a module that the setting of ``[project]`` names; raises ``SetupError`` for
    another."""
    module, _, inside = name.partition(":")
    if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in modules):
        raise SetupError(
            f"Functions of the module {module!r} are not called here.",
            where=f"[project] {setting}",
            next_step="Name the module there, on each host.",
        )
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    found: Any = importlib.import_module(module)
    for part in inside.split("."):
        found = getattr(found, part)
    return cast(Callable[..., Any], found)
