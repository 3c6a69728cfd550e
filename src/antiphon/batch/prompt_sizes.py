"""Tokens of an application's prompts before any was measured, from the length of the prompt as it will be written."""

from __future__ import annotations

import re
from math import ceil
from typing import Any

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.serving.answering import prompts

BYTES_PER_TOKEN = 4
"""Of English text in the vocabularies of today's models; other languages have fewer bytes a token."""

TOKENS_PER_TURN = 4
"""Marks that a chat template puts around a turn."""

_FEATURE = re.compile(r"\bfeatures\.(\w+\.\w+)")
_FIGURE = "00"
"""Stands for a printed figure, which is not read to estimate a length."""


def prompt_tokens(application: ApplicationSpec, row: dict[str, Any]) -> float:
    """About how many tokens a row's prompt has: system, examples and the template with the row's keys and question."""
    entity = {key: str(row.get(key) or "") for key in application.entity_keys}
    prints = dict.fromkeys(_FEATURE.findall(application.prompt.template), _FIGURE)
    question = str(row.get("question") or "")
    try:
        names = prompts.variables(application, prints, entity, question)
        user = prompts.render(application.prompt.template, names, "prompt")
    except InvalidInputError:  # it computes with a figure: then its own text is the nearest length that is known
        user = application.prompt.template + question
    turns = prompts.turns(application, user)
    return sum(len(turn.content.encode()) for turn in turns) / BYTES_PER_TOKEN + TOKENS_PER_TURN * (len(turns) + 1)


def scaled(sampled: list[float], rows: int) -> int:
    """Tokens of so many rows of which some were sampled."""
    return ceil(sum(sampled) / len(sampled) * rows) if sampled else 0
