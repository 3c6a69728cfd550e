import json
import random

from antiphon.serving.answering.guards.outputs import PropertyReader, words_of


def read(text: str, chunk: int = 1) -> list[tuple[str, object, int]]:
    reader = PropertyReader()
    for at in range(0, len(text), chunk):
        reader.feed(text[at : at + chunk])
    return [(one.name, one.value, one.end) for one in reader.properties]


def test_properties_are_whole_once_a_comma_follows() -> None:
    text = '{"a": "x, \\"y\\"}", "b": [1, {"c": 2}], "d": 3, "e": 4}'
    found = read(text)
    assert [(name, value) for name, value, _ in found] == [("a", 'x, "y"}'), ("b", [1, {"c": 2}]), ("d", 3)]
    assert text[: found[0][2]] == '{"a": "x, \\"y\\"}",'


def test_nothing_is_read_behind_what_is_no_json_or_comes_twice() -> None:
    assert [name for name, *_ in read('{"a": 1, "a": 2, "b": 3, ')] == ["a"]
    assert read('[1, 2, {"a": 1, "b": 2}') == []
    assert read('Sure: {"a": 1, "b": 2}') == []
    assert [name for name, *_ in read('{"a": 1, b: 2, "c": 3, ')] == ["a"]
    assert [name for name, *_ in read('{"a": 1, "b": 2} {"c": 3, ')] == ["a"]


def test_any_chunking_reads_the_same() -> None:
    rng = random.Random(5)
    for _ in range(300):
        value = {
            f"p{n}": rng.choice(['q"\\', [1, "a,b"], {"x": "}"}, 3.5, None, "ü"]) for n in range(rng.randint(1, 6))
        }
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
        found = read(text, rng.randint(1, 9))
        assert {name: one for name, one, _ in found} == dict(list(value.items())[:-1])


def test_a_reader_of_an_output_sees_keys_texts_and_numbers() -> None:
    assert words_of({"a": ["x", 4111, True, None], "b": {"c": "y"}}) == "a\nx\n4111\nb\nc\ny"
