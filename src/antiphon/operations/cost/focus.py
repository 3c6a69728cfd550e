"""Charges as rows of FOCUS, the FinOps Foundation's format of cost and usage (https://focus.finops.org). Pure.

Billed and effective costs are the charges' whole micro-units. List and contracted costs are the unrounded products of
unit price and quantity, as the format asks. A charge below nothing (work that was charged to an hour before) is of the
class ``Correction``, as those that a later price makes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from datetime import datetime
from decimal import Context, Decimal

from antiphon.catalog.ledger import HOUR, Resource
from antiphon.operations.cost.amounts import decimal_text
from antiphon.operations.cost.price_book import PRICED_AS, UNITS, Unit
from antiphon.operations.cost.rating import Charge

VERSION = "1.2"

_EXACT = Context(prec=60)

COLUMNS = (
    "AvailabilityZone",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
)

_SERVICES: dict[Resource, tuple[str, str, str, str]] = {
    "engine": ("AI and Machine Learning", "Generative AI", "Engine", "Engine seconds"),
    "engine_idle": ("AI and Machine Learning", "Generative AI", "Engine", "Idle engine seconds"),
    "gpu": ("AI and Machine Learning", "Generative AI", "Engine", "GPU seconds"),
    "gpu_idle": ("AI and Machine Learning", "Generative AI", "Engine", "Idle GPU seconds"),
    "prompt_token": ("AI and Machine Learning", "Generative AI", "Model", "Prompt tokens"),
    "cached_prompt_token": ("AI and Machine Learning", "Generative AI", "Model", "Cached prompt tokens"),
    "completion_token": ("AI and Machine Learning", "Generative AI", "Model", "Completion tokens"),
    "worker": ("Compute", "Other (Compute)", "Run", "Worker seconds"),
    "training_processor": ("Compute", "Other (Compute)", "Run", "Training processor seconds"),
    "memory": ("Compute", "Other (Compute)", "Memory", "Resident GiB-hours"),
    "storage": ("Storage", "Other (Storage)", "Storage", "Stored GiB-months"),
}
"""Category, subcategory, type of resource, and meter."""

_UNITS = {"second": "Seconds", "token": "Tokens", "GiB-hour": "GiB-Hours", "GiB-month": "GiB-Months"}

_TAGS = ("application", "release", "path", "role", "principal", "engine", "model", "work")


def focus_csv(charges: Iterable[Charge], environment: str, currency: str) -> tuple[int, str]:
    """The charges as CSV: the number of rows, and the text. What has no price (answers, savings) is no charge."""
    written = io.StringIO()
    rows = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    count = 0
    for charge in charges:
        if charge.kind != "saved" and charge.entry.resource in _SERVICES and charge.unit_price:
            rows.writerow(_row(charge, environment, currency))
            count += 1
    return count, written.getvalue()


def _row(charge: Charge, environment: str, currency: str) -> dict[str, str]:
    entry = charge.entry
    category, subcategory, kind, meter = _SERVICES[entry.resource]
    unit = UNITS[PRICED_AS.get(entry.resource, entry.resource)]
    quantity, month = _decimal(entry.quantity, unit), charge.booked.replace(day=1, hour=0)
    billed = decimal_text(charge.micros)
    corrects = charge.kind == "correction" or entry.quantity < 0 or charge.micros < 0
    row = {
        "BilledCost": billed,
        "BillingAccountId": environment,
        "BillingAccountName": environment,
        "BillingAccountType": "Environment",
        "BillingCurrency": charge.currency or currency,
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time(month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)),
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if corrects else "",
        "ChargeDescription": _description(charge, meter),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(entry.hour),
        "ChargePeriodEnd": _time(entry.hour + HOUR),
        "EffectiveCost": billed,
        "InvoiceId": "",
        "InvoiceIssuerName": "Antiphon",
        "PricingCategory": "Standard",
        "ProviderName": "Antiphon",
        "PublisherName": "Antiphon",
        "ResourceId": _resource(charge),
        "ResourceName": _resource(charge),
        "ResourceType": kind,
        "ServiceCategory": category,
        "ServiceName": f"Antiphon {kind}",
        "ServiceSubcategory": subcategory,
        "SkuId": _sku(charge),
        "SkuMeter": meter,
        "SkuPriceId": f"{_sku(charge)}@{charge.unit_price}",
        "SubAccountId": entry.tenant,
        "SubAccountName": entry.tenant,
        "SubAccountType": "Tenant",
        "Tags": json.dumps({name: value for name in _TAGS if (value := getattr(entry, name))}, sort_keys=True),
    }
    if charge.kind == "correction":
        # The quantity was told with the charge that it corrects.
        return row | {"ContractedCost": billed, "ListCost": billed}
    cost = _plain(_EXACT.multiply(Decimal(charge.unit_price), Decimal(quantity)))
    return row | {
        "ConsumedQuantity": quantity,
        "ConsumedUnit": _UNITS[unit.name],
        "ContractedCost": cost,
        "ContractedUnitPrice": charge.unit_price,
        "ListCost": cost,
        "ListUnitPrice": charge.unit_price,
        "PricingQuantity": quantity,
        "PricingUnit": _UNITS[unit.name],
    }


def _description(charge: Charge, meter: str) -> str:
    entry = charge.entry
    of = next((value for value in (entry.application, entry.work, entry.engine) if value), "the installation")
    what = f"{meter} of {of}"
    return f"{what}, by a price that was recorded later" if charge.kind == "correction" else what


def _resource(charge: Charge) -> str:
    entry = charge.entry
    return entry.engine or entry.work or entry.model or entry.resource


def _sku(charge: Charge) -> str:
    entry = charge.entry
    return f"{entry.resource}/{entry.model}" if entry.model and entry.resource.endswith("token") else entry.resource


def _decimal(quantity: int, unit: Unit) -> str:
    """The quantity in units of its price; of stored bytes to 18 digits after the point."""
    if unit.quantities == 1:
        return str(quantity)
    places = Decimal(1).scaleb(-18)
    return _plain(_EXACT.divide(Decimal(quantity), Decimal(unit.quantities)).quantize(places, context=_EXACT))


def _plain(number: Decimal) -> str:
    return format(number.normalize(_EXACT), "f")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
