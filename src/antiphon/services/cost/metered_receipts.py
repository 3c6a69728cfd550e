"""Receipts that are entered into the ledger in their own transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.serving.receipt import Receipt
from antiphon.operations.cost.metering import usages_of
from antiphon.serving.ports import ReceiptWriter


class MeteredReceipts:
    """Receipts as serving writes them: what each used is in the ledger if and only if the receipt is committed.

    A receipt that is there already is refused before anything is added: its usage counts once.
    """

    def __init__(self, receipts: ReceiptWriter, database: Database) -> None:
        self._receipts = receipts
        self._database = database
        self._ledger = Ledger(database)

    def add(self, receipt: Receipt, texts: Sequence[bytes] = (), *, within: Any = None) -> None:
        """See ``catalog.serving.receipts.Receipts.add``."""
        with self._database.writing(within) as connection:
            self._receipts.add(receipt, texts, within=connection)
            self._ledger.add_with_commit(receipt.scope, usages_of(receipt))
