"""Embedders of tests that need no model's weights."""

from __future__ import annotations

from antiphon.definitions.embedding import named_model
from antiphon.testing.embedding import GivenEmbedders, HashedWords

WORDS = GivenEmbedders(HashedWords(named_model("minilm-l6-v2")))
"""Texts that share words are near each other, under the name of the model that is used by default."""
