"""The base model's tokenizer, rebuilt from its GGUF file so that it cuts text exactly as llama.cpp does."""

from __future__ import annotations

from typing import Any

from antiphon.core.errors import InvalidInputError
from antiphon.training.base import Base

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF whose names are recognized in text (``llama_token_type``)."""

_DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "exaone")
"""Pre-tokenizers of llama.cpp (``llama-vocab.cpp``) that cut every digit off and then split as GPT-2 did."""
_AS_GPT2 = ("default", "gpt-2", "mpt", "olmo", "jais", "phi-2")


class Vocabulary:
    """Text to token ids.

    Raises:
        InvalidInputError: the file's tokenizer is of a kind that is not rebuilt here.
    """

    def __init__(self, base: Base) -> None:
        from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

        kind, cut = base.value("tokenizer.ggml.model"), base.value("tokenizer.ggml.pre") or "default"
        if kind != "gpt2" or cut not in _DIGITS_ALONE + _AS_GPT2:
            raise InvalidInputError(
                f"The tokenizer {kind!r} with the pre-tokenizer {cut!r} cannot be trained with.",
                where=str(base.path),
                next_step="Take another base model, such as smollm2-135m.",
            )
        tokens: list[str] = base.value("tokenizer.ggml.tokens")
        types: list[int] = base.value("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ", 1)) for merge in base.value("tokenizer.ggml.merges")]
        model: Any = models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
        self._tokenizer = Tokenizer(model)
        steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        if cut in _DIGITS_ALONE:
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        named = [
            AddedToken(t, special=True, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
        self._tokenizer.add_special_tokens(named)
        begins = base.value("tokenizer.ggml.add_bos_token")
        bos = base.value("tokenizer.ggml.bos_token_id")
        self._bos: list[int] = [int(bos)] if begins and bos is not None else []

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt, with the token that begins a text where the model wants one and the text has none."""
        ids = self.tokenize(text)
        return ids if ids[: len(self._bos)] == self._bos else self._bos + ids

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text; the names of special tokens in it become those tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
