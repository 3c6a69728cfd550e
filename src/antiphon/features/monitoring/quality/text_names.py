"""Names of texts in statistics: the texts themselves where they are public, and pseudonyms everywhere else.

Statistics are kept for good and shown to everybody who may read a snapshot, a run or a version, so what is withheld
must never get into them. A pseudonym is keyed by a secret of the project: the same text has the same one in every
snapshot, so that a category that comes or goes is seen, and trying texts out finds none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from antiphon.catalog.snapshot_facts import WITHHELD, Statistics
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.sensitivity import Tags

KeyedHash = Callable[[str, list[str | None]], bytes]
"""``OnlineSnapshots.entity_hash``."""
NameOf = Callable[[str], str | None]
"""The name that statistics have for a text; ``None`` counts it among the others."""
_DIGITS = 12


class TextNames:
    """Names the texts of one view.

    Args:
        keyed_hash: without it what is not public gets no name at all.
    """

    def __init__(self, spec: FeatureViewSpec, keyed_hash: KeyedHash | None) -> None:
        self._view = spec.name
        self._keyed_hash = keyed_hash
        self._public = frozenset(name for name in spec.features if spec.tags.get(name, Tags()).sensitivity == "public")
        # A column may be read by every feature of the view, and by its rules beside them.
        self.columns_public = self._public == spec.features.keys()

    def of_features(self, features: Collection[str]) -> dict[str, NameOf]:
        """Ways to name the texts of each feature that is not public."""
        return {name: self._named(name) for name in features if name not in self._public}

    def of_columns(self, columns: Collection[str]) -> dict[str, NameOf]:
        """Ways to name the texts of each column of the source, unless all that is made of it is public."""
        return {} if self.columns_public else {name: self._named(f"source.{name}") for name in columns}

    def _named(self, column: str) -> NameOf:
        keyed_hash = self._keyed_hash
        if keyed_hash is None:
            return lambda text: None
        return lambda text: f"{WITHHELD}{keyed_hash('antiphon statistics', [self._view, column, text]).hex()[:_DIGITS]}"


def named_alike(one: Statistics, other: Statistics) -> bool:
    """Tell whether both name texts, or both name pseudonyms: their names mean nothing to each other otherwise."""
    kinds = [{name.startswith(WITHHELD) for name in each.top} for each in (one, other) if each.top]
    return len(kinds) < 2 or kinds[0] == kinds[1]
