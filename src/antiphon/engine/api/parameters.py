"""Request fields beyond OpenAI's, by vLLM's names: an engine takes them, or refuses them by name."""

from __future__ import annotations

from typing import Any

import msgspec

from antiphon.core.errors import UnsupportedParameterError


def fields(parameters: str) -> dict[str, Any]:
    """The fields of a request's ``parameters``, by name."""
    return msgspec.json.decode(parameters, type=dict[str, Any]) if parameters else {}


def refuse(*names: str) -> None:
    """Refuse the first of some fields, by name, for an engine that does not know them
    (``UnsupportedParameterError``)."""
    for name in names:
        raise UnsupportedParameterError(
            f"The engine that serves this model does not know `{name}`.",
            where=name,
            next_step='Leave it out; `serves = "vllm"` or `parameters` under [engine] say that a server takes it.',
        )
