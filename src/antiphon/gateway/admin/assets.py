"""Assets: what is made of what, what of it is stale, and why."""

from __future__ import annotations

import msgspec

from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.conducting.assets import AssetDetail, AssetLine


class AssetList(msgspec.Struct, frozen=True):
    """Inputs before what is made of them."""

    assets: tuple[AssetLine, ...]


class AssetListQuery(msgspec.Struct, frozen=True):
    """All assets, or only those with a part that is to be made."""

    stale: bool = False


class AssetQuery(msgspec.Struct, frozen=True):
    """The key of an asset, such as ``workflow/daily_report``."""

    of: str


@operation("GET", "/admin/assets", "List assets, inputs first, with what of each is stale and why.", "read")
def _list(call: OperationCall, query: AssetListQuery) -> AssetList:
    return AssetList(call.services.work.assets(call.scope).list(stale=query.stale))


@operation("GET", "/admin/assets-parts", "One asset with its parts, and the chain of causes of each.", "read")
def _show(call: OperationCall, query: AssetQuery) -> AssetDetail:
    return call.services.work.assets(call.scope).show(query.of)
