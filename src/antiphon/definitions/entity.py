"""Entities: what features are about, and the columns that name one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from antiphon.definitions.place import caller, declared

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
"""Names of entities, views, features and sources: they become template variables and paths."""


def snake_case(name: str) -> str:
    """The name of a view from its class's: ``RouteHistory`` → ``route_history``, ``HTTPLoad2h`` → ``http_load2h``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class EntitySpec(msgspec.Struct, frozen=True):
    """A declared entity as a value: ``keys`` are column names, in order; their values are compared as text."""

    name: str
    keys: tuple[str, ...]


class Entity:
    """A declared entity: ``Entity("route", keys=["origin", "dest"])``.

    Args:
        name: lower-case letters, digits and underscores, such as ``route``.
        keys: columns that name one entity, in order; their values are compared as text.
    """

    def __init__(self, name: str, keys: Sequence[str]) -> None:
        self.place = caller()
        self.name = name
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        declared(self)

    @property
    def spec(self) -> EntitySpec:
        """The frozen value."""
        return EntitySpec(self.name, self.keys)

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        if not isinstance(self.name, str) or not NAME.match(self.name):
            yield f"entity {self.name!r}: a name is lower-case letters, digits and underscores."
        if not self.keys:
            yield f"entity {self.name!r} has no key columns."
        if len(set(self.keys)) != len(self.keys):
            yield f"entity {self.name!r} names a key column twice."
        for key in self.keys:
            if not isinstance(key, str) or not key.isidentifier():
                yield f"entity {self.name!r}: key {key!r} is not a column name."
