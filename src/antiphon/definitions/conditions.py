"""Conditions for which work is due, and the signs that join them: ``|`` and ``&``.

Invariant: ``a | b | c`` is one flat condition of three, and so is ``a & b & c``: brackets between equal signs change no
value.

A condition of several is declared with all that it may hold (``triggers``), above the single ones, which are joined
nonetheless: that file says here by what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Sign = Literal["|", "&"]
_COMPOUNDS: dict[Sign, Callable[[tuple[Condition, ...]], Condition]] = {}


class Condition(msgspec.Struct, frozen=True):
    """A condition for which work is due: ``a | b`` holds when either does, ``a & b`` when both do."""

    def __or__(self, other: Condition) -> Condition:
        return _join("|", self, other) if isinstance(other, Condition) else NotImplemented

    def __and__(self, other: Condition) -> Condition:
        return _join("&", self, other) if isinstance(other, Condition) else NotImplemented

    def operands(self, sign: Sign) -> tuple[Condition, ...]:
        """Those that the sign joined to this condition; itself where it is a single one."""
        return (self,)


def register_compound(sign: Sign, compound: Callable[[tuple[Condition, ...]], Condition]) -> None:
    """Sets the condition that the sign makes of several."""
    _COMPOUNDS[sign] = compound


def _join(sign: Sign, first: Condition, second: Condition) -> Condition:
    return _COMPOUNDS[sign]((*first.operands(sign), *second.operands(sign)))
