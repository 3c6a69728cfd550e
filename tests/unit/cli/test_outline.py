from __future__ import annotations

from antiphon.cli.outline import MOST_ROWS, outline


def test_short_values_stand_beside_their_names_and_long_ones_below() -> None:
    text = outline({"prediction": "pred_1", "answer": "first\nsecond", "cost": {"amount": 0.5, "currency": "USD"}})
    assert text.splitlines() == [
        "prediction               pred_1",
        "answer",
        "  first",
        "  second",
        "cost                     amount 0.5, currency USD",
    ]


def test_equal_things_are_a_table_and_long_ones_say_how_many() -> None:
    rows = [{"event_time": f"t{number}", "columns": {"a": number, "b": 1, "c": 2, "d": 3}} for number in range(20)]
    lines = outline({"rows": rows}).splitlines()
    assert lines[1].split() == ["event", "time", "columns"]
    assert lines[2].split(maxsplit=1) == ["t0", "a 0, b 1, c 2, d 3"]
    assert lines[-1] == "  … 20 in this list"
    assert len(lines) == 1 + 1 + MOST_ROWS + 1


def test_a_list_of_nested_things_is_headed_by_its_first_value() -> None:
    text = outline([{"name": "today.minutes", "lineage": {"rows": [{"a": "x\ny"}]}}])
    assert text.splitlines()[0] == "- today.minutes"


def test_nothing_is_a_dash_and_long_number_lists_are_cut() -> None:
    assert outline({"a": None, "b": [], "c": "", "d": True}).splitlines() == [
        f"{name:<24} {value}" for name, value in zip("abcd", ("-", "-", "-", "yes"), strict=True)
    ]
    assert outline({"tokens": list(range(40))}).endswith("11 … (40)")
