"""Request fields beyond OpenAI's, by vLLM's names: what an engine is told, or refuses by name."""

from __future__ import annotations

from typing import Any

import msgspec

from antiphon.core.errors import UnsupportedParameterError
from antiphon.engine.api.messages import GenerationRequest


def fields(request: GenerationRequest) -> dict[str, Any]:
    """The fields of a request, by name."""
    return msgspec.json.decode(request.parameters, type=dict[str, Any]) if request.parameters else {}


def refuse(*names: str) -> None:
    """Refuse fields on behalf of an engine that does not know them.

    Raises:
        UnsupportedParameterError: names the first one.
    """
    for name in names:
        raise UnsupportedParameterError(
            f"The engine that serves this model does not know `{name}`.",
            where=name,
            next_step='Leave it out; `serves = "vllm"` or `parameters` under [engine] say that a server takes it.',
        )
