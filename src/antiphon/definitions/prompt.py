"""Prompts: a template over printed features, a system text, examples."""

from __future__ import annotations

import msgspec


class Prompt(msgspec.Struct, frozen=True):
    """The prompt of an application.

    Attributes:
        template: sandboxed Jinja2; sees ``entity`` (the request's keys), ``question`` and
            ``features.VIEW.FEATURE`` (printed values, ``None`` when absent), and ``retrieved.NAME`` (the chunks of a
            retrieval). It never sees the time.
        system: the static part; it comes first, so that its prefix is shared by every request.
        examples: (user, assistant) turns placed after the system text.
    """

    template: str
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
