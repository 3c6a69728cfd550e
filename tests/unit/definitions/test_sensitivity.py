from __future__ import annotations

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.entity import Entity
from antiphon.definitions.feature import count
from antiphon.definitions.feature_view import FeatureView, feature_view
from antiphon.definitions.sensitivity import Tags, tags_of
from antiphon.definitions.source import Source


def view(*, source: dict[str, object] | None = None, **options: object) -> FeatureView:
    orders = Source.table("orders", path="o.csv", event_time="at", **(source or {}))  # type: ignore[arg-type]

    @feature_view(entity=Entity("shop", keys=["shop"]), source=orders, **options)
    class Today:
        orders = count(window="24h")
        late = count(window="24h")

    return Today  # type: ignore[return-value]


def test_tags_change_no_definition_version() -> None:
    plain = view().spec()
    tagged = view(source={"sensitivity": "restricted"}, purposes=["tell"], sensitivity={"late": "public"}).spec()
    assert plain.tags == {}
    assert plain.definition_version == tagged.definition_version
    assert tagged.tags == {"orders": Tags("restricted", ("tell",)), "late": Tags("public", ("tell",))}


@pytest.mark.parametrize(
    ("own", "source", "expected"),
    [
        ({}, {}, {}),
        ({"sensitivity": "public"}, {}, {"a": Tags("public")}),
        ({}, {"purposes": ["x", "y"]}, {"a": Tags("internal", ("x", "y"))}),
        ({"purposes": ["y", "z"]}, {"purposes": ["x", "y"]}, {"a": Tags("internal", ("y",))}),
        ({"purposes": ["z"]}, {"purposes": ["x"]}, {"a": Tags("internal", ())}),
    ],
)
def test_what_a_view_and_its_source_declare_is_put_together(
    own: dict[str, object], source: dict[str, object], expected: dict[str, Tags]
) -> None:
    assert tags_of(own, source, ["a"]) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sensitivity": "secret"}, "sensitivity is 'secret'; it is one of public"),
        ({"sensitivity": {"late": "secret"}}, "sensitivity of 'late' is 'secret'"),
        ({"sensitivity": {"early": "public"}}, "'early', which is no feature"),
        ({"purposes": "tell"}, "must be a list"),
        ({"purposes": []}, "purposes is empty"),
        ({"purposes": [" "]}, "texts that say"),
        ({"source": {"sensitivity": {"late": "public"}}}, None),
    ],
)
def test_mistakes_are_told(options: dict[str, object], said: str | None) -> None:
    made = view(**options)  # type: ignore[arg-type]
    if said is None:
        assert isinstance(made.source, Source)
        assert "sensitivity is" in " ".join(made.source.mistakes())
        return
    with pytest.raises(InvalidDefinitionsError, match=said):
        made.spec()
