"""How a model reads a text: its tokens, and the text of tokens."""

from __future__ import annotations

from antiphon.core.errors import InvalidInput
from antiphon.engine.messages import Tokenise, Tokenised
from antiphon.engine.runtime import Runtime


def tokenised(runtime: Runtime, request: Tokenise) -> Tokenised:
    """The answer to a question about tokens. Nothing is put before a text; control tokens have none.

    Raises:
        InvalidInput: the model has no such token.
    """
    if request.text is not None:
        # A runtime may put the token of a beginning before a text that has none: with one there, it adds nothing.
        begin = runtime.description.bos
        tokens = runtime.tokenize(begin + request.text)
        return Tokenised(request.id, request.text, tuple(tokens[1:] if begin else tokens))
    pieces = runtime.vocabulary.pieces
    unknown = next((token for token in request.tokens if not 0 <= token < len(pieces)), None)
    if unknown is not None:
        raise InvalidInput(
            f"The model has no token {unknown}.", where="tokens", next_step=f"Send ids from 0 to {len(pieces) - 1}."
        )
    content = b"".join(pieces[token] for token in request.tokens)
    return Tokenised(request.id, content.decode(errors="replace"), request.tokens)
