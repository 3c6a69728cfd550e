"""Constrains output to a JSON schema: masks before sampling, and tokens that the grammar forces.

The grammar engine is llguidance (an Earley parser over a token trie); a mask costs tens of microseconds.
Objects are written with ``", "`` and ``": "`` and no other free whitespace, so that more tokens are forced;
a schema that carries ``x-guidance`` options overrides this.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from antiphon.core import json_schemas
from antiphon.core.errors import UnsatisfiableSchemaError
from antiphon.engine.execution.sampling import Permitted

_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """State of one generation in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """The text meets the schema and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def permitted(self) -> Permitted:
        """The tokens that may come next; raises ``UnsatisfiableSchemaError`` for none, or a grammar that outgrew its
        limits."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        permitted = np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)
        if not permitted.any():
            raise UnsatisfiableSchemaError("No token can follow in this schema.", where="json_schema")
        return permitted

    def accept(self, token: int) -> None:
        """Advance by a permitted token."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Advance by all tokens the grammar leaves no choice about, and return them."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        if tokens:
            self._matcher.consume_tokens(tokens)
        self._check()
        return tokens

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnsatisfiableSchemaError(_first_line(self._matcher.get_error()), where="json_schema")


class Grammars:
    """Compiles schemas for one model's vocabulary and remembers the latest ones."""

    def __init__(self, tokenizer: Any, vocabulary: int, *, remembered: int = 64) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._compiled = lru_cache(remembered)(self._compile)

    def constraint(self, schema: str, *, lark: bool = False) -> Constraint:
        """A fresh constraint for a JSON schema (its text), or for a grammar in llguidance's Lark syntax.

        Raises:
            UnsatisfiableSchemaError: the text is no JSON schema, uses what is not implemented, or nothing can meet it.
        """
        return Constraint(self._compiled(schema, lark).deep_copy(), self._vocabulary)

    def _compile(self, schema: str, lark: bool) -> Any:
        from llguidance import LLMatcher

        if lark:
            return self._matcher(schema)
        # llguidance takes its options from the schema's object, so the two schemas that are none are handled here.
        if schema.strip() == "false":
            raise UnsatisfiableSchemaError("The schema is false: nothing meets it.", where="json_schema")
        if schema.strip() == "true":
            schema = "{}"
        if (found := _unsound(schema)) is not None:
            raise UnsatisfiableSchemaError(f"{found}.", where="json_schema")
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, defaults=_SPACING)
        except ValueError as error:
            raise UnsatisfiableSchemaError(_first_line(str(error)), where="json_schema") from error
        return self._matcher(grammar)

    def _matcher(self, grammar: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise UnsatisfiableSchemaError(_first_line(matcher.get_error()), where="json_schema")
        return matcher


def _unsound(schema: str) -> str | None:
    """Reason for which the schema must not reach the grammar engine, whose limits may end the whole process."""
    try:
        return json_schemas.unsound(msgspec.json.decode(schema))
    except (msgspec.DecodeError, RecursionError):
        return "The schema is no JSON, or is nested too deeply"


def _first_line(message: str) -> str:
    line = message.strip().splitlines()[0] if message.strip() else "The schema cannot be met"
    return line if line.endswith(".") else f"{line}."
