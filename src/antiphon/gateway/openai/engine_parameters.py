"""Request fields beyond OpenAI's, by vLLM's names: passed to an engine that knows them, refused by one that does not.

Names and types follow vLLM's reference ("OpenAI-Compatible Server", extra parameters). Fields that change the shape of
an answer, order requests or load code are not among them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from antiphon.core.ids import canonical
from antiphon.gateway.http.bounds import MOST_TOKENS, TokenId


class EngineParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of sampling and constraints that an engine may be sent besides OpenAI's parameters."""

    top_k: Annotated[int, msgspec.Meta(ge=-1, le=MOST_TOKENS)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], msgspec.Meta(max_length=1024)] | None = None
    include_stop_str_in_output: bool | None = None
    allowed_token_ids: Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=100_000)] | None = None
    bad_words: Annotated[list[str], msgspec.Meta(max_length=1024)] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1, le=MOST_TOKENS)] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structured_outputs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def engine_parameters(given: EngineParameters) -> str:
    """Those that a request has, as one JSON object; nothing for none."""
    found = {name: value for name in EngineParameters.__struct_fields__ if (value := getattr(given, name)) is not None}
    return canonical(found).decode() if found else ""
