"""A Python function of Feast's becomes expressions, or the part of it that cannot be one is told."""

from __future__ import annotations

import pytest

from antiphon.features.feast.on_demand import Operand, UntranslatableError, expressions_of

COLUMNS = {
    "rate": Operand("Stats.rate", "number"),
    "trips": Operand("Stats.trips", "number", True),
    "tier": Operand("Stats.tier", "text"),
    "active": Operand("Stats.active", "boolean"),
    "asked": Operand("request.asked", "number"),
}


def told(body: str) -> dict[str, str]:
    lines = "".join(f"\n    {line}" for line in body.splitlines())
    return {name: each.code for name, each in expressions_of(f"def made(inputs):{lines}", COLUMNS).items()}


@pytest.mark.parametrize(
    ("written", "here"),
    [
        ("inputs['rate'] + 1", "(Stats.rate + 1)"),
        ("-inputs.rate / inputs['asked']", "((-Stats.rate) / request.asked)"),
        ("inputs['tier'] == 'gold'", "(Stats.tier == 'gold').coalesce(False)"),
        ("inputs['rate'] != inputs['trips']", "((Stats.rate + 0) != Stats.trips).coalesce(True)"),
        (
            "np.where(inputs['rate'] > 2, 0, inputs['trips'])",
            "when((Stats.rate > 2).coalesce(False)).then(0).otherwise(Stats.trips)",
        ),
        ("inputs['active'] & ~inputs['rate'].isna()", "(Stats.active & (~Stats.rate.is_null()))"),
        ("inputs['tier'].str.lower().fillna('none')", "Stats.tier.lower().coalesce('none')"),
        ("np.log1p(inputs['rate'].astype(float)).abs()", "Stats.rate.log1p().abs()"),
        (
            "[a * b if a > 1 and b > 1 else 0 for a, b in zip(inputs['rate'], inputs['asked'])]",
            "when(((Stats.rate > 1).coalesce(False) & (request.asked > 1).coalesce(False)))"
            ".then((Stats.rate * request.asked)).otherwise(0)",
        ),
    ],
)
def test_an_expression_means_what_pandas_computes(written: str, here: str) -> None:
    assert told(f"return {{'x': {written}}}") == {"x": here}


def test_tables_are_filled_and_names_stand_for_what_they_hold() -> None:
    body = (
        '"""What it does."""\nimport pandas as pd\nbase = inputs["rate"] * 2\nout = pd.DataFrame()\nout["a"] = base\n'
    )
    assert told(f'{body}out["b"] = base + 1\nreturn out') == {"a": "(Stats.rate * 2)", "b": "((Stats.rate * 2) + 1)"}
    assert told('return pd.DataFrame({"a": inputs["rate"]})') == {"a": "Stats.rate"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {'x': inputs['rate'] ** 2}", r"`inputs\['rate'\] \*\* 2`"),
        ("return {'x': inputs['rate'].max()}", r"max\(\)"),
        ("return {'x': inputs['ghost']}", "'ghost', which is not among"),
        ("return {'x': inputs['tier'] + 1}", "is a text where a number"),
        ("return {'x': inputs['active'] + 1}", "is a boolean where a number"),
        ("return {'x': inputs['tier'] == 1}", "no counterpart"),
        ("return {'x': inputs['tier'] == inputs['tier']}", "no counterpart"),
        ("for each in inputs:\n    pass", "`for each in inputs:`"),
        ("out = {}\nout['x'] = 1", "returns nothing"),
        ("return 7", "`7`"),
        ("return {'x': np.where(inputs['active'], 1, 'a')}", "no counterpart"),
        ("return {'x': [a for a in inputs['rate'] if a > 1]}", "no counterpart"),
        ("return {'x': __import__('os').system('true')}", "no counterpart"),
    ],
)
def test_what_is_no_expression_is_told(body: str, said: str) -> None:
    with pytest.raises(UntranslatableError, match=said):
        told(body)


@pytest.mark.parametrize("code", ["x = 1", "def a(b, c): return {}", "def a(", "import os\ndef a(b): return {}"])
def test_it_is_one_function_of_one_table(code: str) -> None:
    with pytest.raises(UntranslatableError, match="function"):
        expressions_of(code, COLUMNS)
