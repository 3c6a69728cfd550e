"""Fallbacks name engines that the settings declare."""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.degradation import MAIN
from antiphon.services.project.store import Store


def require_named(store: Store, fallback: Iterable[str], where: str) -> None:
    """Refuse a fallback to an engine that is not declared.

    Raises:
        InvalidInputError: names it.
    """
    for named in fallback:
        engine = named.partition("/")[0]
        if engine != MAIN and engine not in store.settings.engines:
            raise InvalidInputError(
                f"The fallback names the engine {engine!r}, which is not declared.",
                where=where,
                next_step=f"Add [engines.{engine}] with a url to antiphon.toml, or take it out of the fallback.",
            )
