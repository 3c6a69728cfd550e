"""The prompts that predictions were served with, to learn from.

Invariant: a prompt to learn from is the one that was served, byte for byte, or it is left out for a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.catalog.learning.datasets import PromptPin
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import STAND_IN_ROLES, Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope


class LeftOutError(Exception):
    """A prediction that nothing is learned from; its text is the reason."""


@dataclass(frozen=True)
class ServedPrompts:
    """Reads the prompts that predictions of one scope were served with. Its methods raise :class:`LeftOutError` with
    the reason ``receipt-gone``, ``text-erased``, ``other-prompt``, ``other-model``, ``not-text`` or ``stand-in``."""

    scope: Scope
    receipts: Receipts
    texts: Blobs
    releases: Releases

    def receipt(self, prediction: str) -> Receipt:
        """The receipt of a prediction."""
        try:
            return self.receipts.get(self.scope, prediction)
        except NotFoundError:
            raise LeftOutError("receipt-gone") from None

    def first_made(self, receipt: Receipt) -> Receipt:
        """The prediction whose text one that was answered from store has."""
        if receipt.attempts or receipt.cache.prediction is None:
            return receipt
        return self.receipt(receipt.cache.prediction)

    def require_own(self, receipt: Receipt) -> None:
        """Raise where something stood in for the release."""
        if any(one.role in STAND_IN_ROLES for one in (receipt, self.first_made(receipt))):
            raise LeftOutError("stand-in")

    def blob(self, receipt: Receipt, pin: PromptPin) -> str:
        """SHA-256 of the prompt of an answer that its own release made with the pinned prompt, schema and base."""
        made = self.first_made(receipt)
        try:
            bundle = self.releases.get(self.scope, made.release).bundle
        except NotFoundError:  # A draft that was tried and never released.
            raise LeftOutError("other-prompt") from None
        application, tune = bundle.application, bundle.application.fine_tune
        if (application.prompt, application.schema) != (pin.prompt, pin.schema):
            raise LeftOutError("other-prompt")
        base = bundle.model.name if bundle.model.version is None else None if tune is None else tune.base
        if base != pin.base:
            raise LeftOutError("other-model")
        if not made.attempts or made.attempts[-1].prompt_form not in (None, "text"):
            raise LeftOutError("not-text")
        self.require_own(receipt)
        return made.attempts[-1].prompt_blob

    def text(self, blob: str) -> str:
        """A text that a receipt names."""
        try:
            return self.texts.get(self.scope, blob).decode()
        except NotFoundError:
            raise LeftOutError("text-erased") from None
