"""The price book of one project's environment: what the settings say, and what was recorded beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from antiphon.catalog.ledger import Resource
from antiphon.catalog.prices import PriceRecord
from antiphon.core.clock import utc
from antiphon.core.errors import ConflictError, ForbiddenError
from antiphon.core.settings_costs import PriceSettings, TokenPriceSettings
from antiphon.governance.identity.principal import Principal
from antiphon.operations.cost.amounts import plain_decimal
from antiphon.operations.cost.price_book import OPENING, PriceBook, checked_price, hour_of
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.cost")

SETTINGS = "settings"
"""In the place of who recorded a price: ``antiphon.toml`` said it."""


class ProjectPrices:
    """Prices of one environment, for all its tenants."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def book(self) -> PriceBook:
        """The prices as they are known now."""
        return PriceBook(self._store.prices.list(self._store.scope.environment))

    @property
    def currency(self) -> str:
        """The currency of every amount."""
        return self.book().currency or self._store.settings.prices.currency

    def record(
        self, resource: str, amount: str, *, model: str, since: datetime | None, reason: str, by: Principal
    ) -> PriceRecord:
        """Record a price; it is on record in the audit log.

        Args:
            since: the whole hour from which it holds, the present one by default. One that is past makes corrections.

        Raises:
            ForbiddenError: another tenant than the project's own asks.
            InvalidInputError: it is no price (``checked_price``).
            ConflictError: another process has just recorded one.
        """
        store = self._store
        if by.tenant != store.scope.tenant:
            raise ForbiddenError(
                "Prices are those of the installation.", where="price", next_step="Ask who administers it."
            )
        hour = hour_of(store.database.clock.now()) if since is None else utc(since)
        currency = self.currency
        known = checked_price(resource, model, amount, currency, hour)
        text = plain_decimal(amount)
        with store.database.transaction() as connection:
            made = store.prices.record(
                store.scope.environment, known, model, text, currency, hour, by.id, reason, within=connection
            )
            detail = {"amount": text, "model": model, "since": hour.isoformat(), "reason": reason}
            store.audit.append(store.scope, by.id, "cost.price", known, detail, within=connection)
        return made

    def follow_settings(self) -> int:
        """Record what the settings say otherwise than before, from the present hour on; returns how many prices.

        The first price of a resource holds from the beginning. What was recorded by hand stays until the settings
        change.
        """
        store, environment = self._store, self._store.scope.environment
        if not list(self._changes(store.prices.list(environment))):
            return 0
        recorded = 0
        with suppress(ConflictError), store.database.transaction() as connection:
            now, records = store.database.clock.now(), store.prices.list(environment, within=connection)
            currency = store.settings.prices.currency
            if records and records[0].currency != currency:
                _log.warning(
                    "prices.currency is %s and the ledger's is %s: prices of the settings are not taken over.",
                    currency,
                    records[0].currency,
                )
                return 0
            priced = {(one.resource, one.model) for one in records}
            for resource, model, amount in self._changes(records):
                since = hour_of(now) if (resource, model) in priced else OPENING
                checked_price(resource, model, amount, currency, since)
                store.prices.record(
                    environment, resource, model, amount, currency, since, SETTINGS, "antiphon.toml", within=connection
                )
                recorded += 1
        return recorded

    def _changes(self, records: Sequence[PriceRecord]) -> Iterator[tuple[Resource, str, str]]:
        said = {(one.resource, one.model): one.amount for one in records if one.principal == SETTINGS}
        for resource, model, amount in declared_prices(self._store.settings.prices):
            text = plain_decimal(amount)
            if said.get((resource, model), "0") != text:
                yield resource, model, text


def declared_prices(prices: PriceSettings) -> Iterator[tuple[Resource, str, float]]:
    """Each price that settings may name: resource, model, amount of a unit."""
    yield "engine", "", prices.engine_second
    yield "gpu", "", prices.gpu_second
    yield "worker", "", prices.worker_second
    yield "training_processor", "", prices.training_processor_second
    yield "memory", "", prices.memory_gib_hour
    yield "storage", "", prices.gib_month
    of_all = TokenPriceSettings(prices.prompt_token, prices.cached_prompt_token, prices.completion_token)
    for model, tokens in {"": of_all, **prices.models}.items():
        yield "prompt_token", model, tokens.prompt_token
        yield "cached_prompt_token", model, tokens.cached_prompt_token
        yield "completion_token", model, tokens.completion_token
