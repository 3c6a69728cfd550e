"""Reasons and notes that people give for the record."""

from __future__ import annotations

from antiphon.core.errors import InvalidInputError

MOST_TEXT = 2_000


def require_text(text: str, name: str = "reason") -> None:
    """Raise ``InvalidInputError`` for a text that is empty or longer than :data:`MOST_TEXT` characters."""
    if not text.strip() or len(text) > MOST_TEXT:
        raise InvalidInputError(
            f"The {name} is empty or longer than {MOST_TEXT} characters.",
            where=name,
            next_step="Say it in a few words.",
        )
