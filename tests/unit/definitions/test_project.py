"""Every mistake of a project at once, each with file and line; and what a sound project becomes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from antiphon.core.errors import InvalidDefinitionsError, SetupError
from antiphon.definitions.objects import ObjectStore
from antiphon.definitions.project import ProjectSpec, load

SOUND = """
from antiphon import (
    Application, Decoding, Entity, Figure, FigureGuard, Freshness, Prompt, Reuse, Source, col, count, feature_view,
    last, mean, sum,
)

origin = Entity("origin", keys=["origin"])
route = Entity("route", keys=["origin", "dest"])
departures = Source.stream(
    "departures", history="sources/departures.parquet", event_time="scheduled", available_at="departed", event_id="id",
)
rides = Source.table("rides", path="rides.csv", event_time="at")


@feature_view(entity=origin, source=departures, refresh="15m", owner="ops")
class Congestion:
    \"\"\"How busy it is.\"\"\"

    departures_2h = count(window="2h")
    delay_2h = mean(col.dep_delay, window="2h", scale="0.01")


@feature_view(entity=route, source=departures)
class RouteHistory:
    late_share = mean(col.dep_delay > 15, window="28d")
    carrier = last(col.carrier)
    paid = sum(col.fare, window="7d", scale="0.010", where=col.cabin == "first")


desk = Application(
    "desk",
    entities=[origin],
    features=[Congestion, RouteHistory],
    prompt=Prompt(
        template="Delay {{ features.congestion.delay_2h }} from {{ entity.origin }} to {{ entity['dest'] }}."
    ),
    model="smollm2-135m",
    purpose="tell passengers",
    output={
        "type": "object",
        "properties": {"outlook": {"enum": ["on_time", "delayed"]}, "notice": {"type": "string"}},
    },
    decoding=Decoding(max_tokens=60),
    figures=[Figure(Congestion.delay_2h, step=5, unit=("minutes",), roles=("delay",))],
    guards=[FigureGuard(property="notice", fallback="{{ output.outlook }} {{ features.congestion.delay_2h }}")],
    freshness={Congestion: Freshness(max_age="15m"), "route_history": Freshness(max_age="2d", when_stale="reject")},
    reuse=Reuse(mode="age", max_age="30m"),
)
"""


def project(folder: Path, text: str) -> Path:
    (folder / "definitions.py").write_text(textwrap.dedent(text))
    return folder


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(project(folder, text))
    return list(raised.value.problems)


def test_a_sound_project_becomes_values(tmp_path: Path) -> None:
    found = load(project(tmp_path, SOUND), name="example")
    assert found.name == "example"
    assert list(found.views) == ["congestion", "route_history"]
    congestion = found.views["congestion"]
    assert congestion.entity.keys == ("origin",)
    assert congestion.refresh == 15 * 60 * 1_000_000
    assert congestion.description == "How busy it is."
    assert congestion.features["delay_2h"].window == 2 * 3600 * 1_000_000
    assert found.views["route_history"].features["paid"].scale == "0.01"
    assert found.sources["departures"].path == str(tmp_path / "sources/departures.parquet")
    desk = found.applications["desk"]
    assert desk.entity_keys == ("origin", "dest")
    assert desk.classes == ("outlook",)
    assert desk.features == {name: view.definition_version for name, view in found.views.items()}
    assert desk.freshness["congestion"].max_age == "15m"
    assert found.views["congestion"].columns() == {"dep_delay"}


def test_a_project_survives_json(tmp_path: Path) -> None:
    found = load(project(tmp_path, SOUND))
    assert msgspec.json.decode(msgspec.json.encode(found), type=ProjectSpec) == found


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ('window="2h"', 'window="120m"', False),
        ('scale="0.01"', 'scale="1e-2"', False),
        ("col.dep_delay > 15,", "col.dep_delay > 15.0,", False),
        ('owner="ops"', 'owner="somebody"', False),
        ('refresh="15m"', 'refresh="1h"', False),
        ("sources/departures.parquet", "elsewhere.parquet", False),
        ("How busy it is.", "How full it is.", False),
        ('delay_2h = mean(col.dep_delay, window="2h"', 'delay_2h = mean(col.dep_delay, window="3h"', True),
        ('window="2h", scale="0.01"', 'window="2h", scale="0.1"', True),
        ("mean(col.dep_delay, ", "mean(col.arr_delay, ", True),
        ('available_at="departed"', 'available_at="left"', True),
        ('event_id="id",', 'event_id="id", where=col.dep_delay > 0,', True),
        ("departures_2h = count", "leaving_2h = count", True),
    ],
)
def test_the_definition_version_changes_with_the_meaning_alone(
    tmp_path: Path, before: str, after: str, changes: bool
) -> None:
    assert before in SOUND

    def versions(text: str) -> dict[str, str]:
        text = text.partition("\ndesk = ")[0]
        return {name: view.definition_version for name, view in load(project(tmp_path, text)).views.items()}

    assert (versions(SOUND) != versions(SOUND.replace(before, after))) is changes


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("{{ features.congestion.delay_2h }} from", "{{ features.congestion.delay_9h }} from", "no feature 'delay_9h'"),
        ("{{ features.congestion.delay_2h }} from", "{{ features.weather.wind }} from", "no view 'weather'"),
        ("{{ features.congestion.delay_2h }} from", "{{ features.congestion.departures_2h }}", "has no Figure"),
        ("{{ features.congestion.delay_2h }} from", "{{ features.congestion }}", "name one feature"),
        ("{{ features.congestion.delay_2h }} from", "{% for f in features %}{% endfor %}", "name one feature"),
        ("{{ features.congestion.delay_2h }} from", "{{ now }}", "reads 'now'"),
        ("{{ features.congestion.delay_2h }} from", "{{ output.x }}", "reads 'output'"),
        ("{{ features.congestion.delay_2h }} from", "{% if %}", "template syntax"),
        ("{{ entity.origin }}", "{{ entity.airport }}", "entity has no key 'airport'"),
        (
            "{{ output.outlook }} {{ features.congestion.delay_2h }}",
            "{{ features.congestion.gone }}",
            "guard figures:notice, fallback",
        ),
        ("Figure(Congestion.delay_2h", 'Figure("congestion.gone"', "no feature 'gone'"),
        ("step=5", "step=-5", "step must be 0 or a positive number"),
        ("step=5", "step=float('nan')", "step must be 0 or a positive number"),
        ("step=5", "step='five'", "figure: "),
        ('"route_history": Freshness', '"routes": Freshness', "no view 'routes'"),
        ('max_age="15m"', 'max_age="15 minutes"', "'15 minutes' is not a duration"),
        ('max_age="30m"', 'max_age="0m"', "'0m' is not a duration"),
        ('reuse=Reuse(mode="age", max_age="30m")', 'reuse=Reuse(mode="age")', "reuse by age needs max_age"),
        ('reuse=Reuse(mode="age", max_age="30m")', 'reuse=Reuse(mode="sometimes")', "reuse: Invalid enum value"),
        ('reuse=Reuse(mode="age", max_age="30m")', 'reuse=Reuse("never", refreshed=5)', "the mode 'never' serves none"),
        ('reuse=Reuse(mode="age", max_age="30m")', "reuse=Reuse(refreshed=-1)", "a number of entities from 0"),
        *(
            ('reuse=Reuse(mode="age", max_age="30m")', wrong, said)
            for wrong, said in (
                ('fallback=["Stand by"]', "'Stand by' is not ENGINE or ENGINE/MODEL"),
                ('fallback="standby"', "fallback must be a list of texts"),
                ('fallback=["a/b", "a/b"]', "fallback names an engine and model twice"),
                ('when_unavailable="yesterdays"', "'yesterdays' is none of"),
                ("when_unavailable=5", "when_unavailable must be"),
            )
        ),
        ('"type": "object"', '"type": "objekt"', "no JSON schema"),
        ('property="notice"', 'property="text"', "no property 'text'"),
        ('property="notice"', 'property="outlook"', "not of type string"),
        ("features=[Congestion, RouteHistory]", "features=[Congestion, RouteHistory, origin]", "is not a feature view"),
        ('purpose="tell passengers"', 'purpose=""', "purpose must say"),
        ("Decoding(max_tokens=60)", "Decoding(max_tokens=0)", "max_tokens must be at least 1"),
        ('window="2h", scale="0.01"', 'window="2 hours", scale="0.01"', "'2 hours' is not a duration"),
        ('window="2h", scale="0.01"', 'window="2h"', "needs a fixed-point scale"),
        ('window="2h", scale="0.01"', 'window="2h", scale=0.01', "scale must be a positive decimal as a text"),
        ('window="2h", scale="0.01"', 'windw="2h", scale="0.01"', "no option 'windw'"),
        ('count(window="2h")', "count()", "count needs a window"),
        ('count(window="2h")', "count(window='2h', where=col.x + 1)", "a condition is needed"),
        ('count(window="2h")', "7", "departures_2h = 7 is not a feature"),
        ("mean(col.dep_delay,", "mean(col.scheduled,", "time column 'scheduled'"),
        ("mean(col.dep_delay,", "mean(col.dep_delay + 'x',", "'+' needs numbers, not a text"),
        ("mean(col.dep_delay,", "mean(col.dep_delay == None,", "use .is_null()"),
        ("col.dep_delay > 15,", "(col.dep_delay > 15) & 3,", "'and' needs booleans, not a number"),
        ('keys=["origin"]', "keys=[]", "has no key columns"),
        ('keys=["origin", "dest"]', 'keys=["origin", "origin"]', "names a key column twice"),
        ('Entity("route"', 'Entity("origin"', "is declared already, at definitions.py:7"),
        ('Source.table("rides"', 'Source.table("departures"', "is declared already, at definitions.py:9"),
        ("class RouteHistory", "class Congestion", "view 'congestion' is declared already"),
        ("entity=origin, source=departures", "entity='origin', source=departures", "entity must be an Entity"),
        ('refresh="15m"', 'refresh="often"', "'often' is not a duration"),
        ('owner="ops"', 'ownr="ops"', "no option 'ownr'"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    assert before in SOUND
    found = problems(tmp_path, SOUND.replace(before, after, 1))
    assert any(told in problem for problem in found), found
    assert all(problem.startswith("definitions.py:") for problem in found), found


def test_all_mistakes_come_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = SOUND.replace('refresh="15m"', 'refresh="often"').replace('window="28d"', 'window="long"')
    text = text.replace("step=5", "step=-1").replace('purpose="tell passengers"', 'purpose=" "')
    found = problems(tmp_path, text)
    lines = [int(problem.split(":")[1]) for problem in found]
    assert len(found) == 4
    assert lines == sorted(lines)
    assert text.splitlines()[lines[0] - 1].startswith("@feature_view")
    assert "late_share" in text.splitlines()[lines[1] - 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (\n", "definitions.py:1: syntax: '(' was never closed."),
        ("\nimport nothing_of_this_name\n", "definitions.py:2: ModuleNotFoundError"),
        ("from antiphon import Entity\n\nEntity()\n", "definitions.py:3: TypeError"),
        ("from antiphon import col\n\nif col.a > 1 and col.b: pass\n", "definitions.py:3: TypeError: A column"),
    ],
)
def test_a_file_that_does_not_run_says_where(tmp_path: Path, text: str, told: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(told)


def test_a_file_that_breaks_half_way_also_tells_what_was_wrong_before(tmp_path: Path) -> None:
    found = problems(tmp_path, "from antiphon import Entity\n\nEntity('A B', keys=['x'])\n\n1 / 0\n")
    assert [problem.split(":")[1] for problem in found] == ["3", "5"]


def test_no_file_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        load(tmp_path)


def test_importing_antiphon_is_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import antiphon; took = time.process_time() - start;"
        "heavy = {'duckdb', 'pyarrow', 'lmdb', 'sqlalchemy', 'jinja2', 'jsonschema', 'llama_cpp', 'numpy'};"
        "antiphon.Entity, antiphon.Application, antiphon.feature_view, antiphon.col;"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); assert took < 0.2, took;"
        "assert set(antiphon.__all__) == {name for name in antiphon.__all__ if hasattr(antiphon, name)}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


OBJECTS = SOUND.replace("sources/departures.parquet", "s3://bucket/departures/*.parquet")


def test_a_source_of_objects_is_in_the_store_of_the_project(tmp_path: Path) -> None:
    lake = ObjectStore("http://lake:1", None, "ACCESS", "SECRET")
    loaded = load(project(tmp_path, OBJECTS), objects=lake)
    read = [loaded.sources["departures"], loaded.views["congestion"].source]
    assert {(source.path, source.store) for source in read} == {("s3://bucket/departures/*.parquet", lake)}
    assert loaded.sources["rides"].store is None
    elsewhere = load(project(tmp_path, SOUND))
    for name, view in loaded.views.items():
        assert view.definition_version == elsewhere.views[name].definition_version


def test_objects_are_not_fetched_for_a_request(tmp_path: Path) -> None:
    recomputing = OBJECTS.replace('Freshness(max_age="15m")', 'Freshness(max_age="15m", when_stale="recompute")')
    with pytest.raises(InvalidDefinitionsError, match="objects would be fetched for every request"):
        load(project(tmp_path, recomputing))
    load(project(tmp_path, recomputing.replace("s3://bucket/", "")))


LEARNING = '''
from antiphon import Application, Entity, Figure, FineTune, Outcome, Prompt, Source, count, feature_view

orders = Source.table("orders", path="orders.csv", event_time="at")
labels = Source.table("labels", path="labels.csv", event_time="at"{later})
shop = Entity("shop", keys=["shop"])


@feature_view(entity=shop, source=orders)
class Today:
    orders = count(window="1d")


Application(
    "desk", features=[Today], figures=[Figure(Today.orders, step=1)], purpose="tell",
    prompt=Prompt("{{ entity.shop }}"),
    output={"type": "object", "properties": {"late": {"enum": ["yes", "no"]}, "why": {"type": "string"}}},
    outcome=Outcome("late", positive="yes", history=labels),
    model=FineTune(base="tiny", prompt=Prompt("""PROMPT"""), targets={"why": """TARGET"""}),
)
'''


def learning(prompt: str = "{{ features.today.orders }}", target: str = "{{ label }}", later: str = "") -> str:
    text = LEARNING.replace('"""PROMPT"""', repr(prompt)).replace('"""TARGET"""', repr(target))
    return text.replace("{later}", later)


@pytest.mark.parametrize(
    ("prompt", "target", "said"),
    [
        ("{{ features.today.order }}", "x", "model.prompt.template, line 1: the view 'today' has no feature 'order'"),
        ("a\n{{ features.gone.orders }}", "x", "model.prompt.template, line 2: "),
        ("{{ label }}", "x", "model.prompt.template reads 'label'"),
        ("{{ entity.shops }}", "x", "model.prompt.template, line 1: entity has no key 'shops'"),
        ("{{ features.today.orders }}", "{{ features.today.sum }}", "model.targets['why'], line 1: "),
        ("{{", "x", "model.prompt.template, line 1: template syntax"),
    ],
)
def test_templates_of_a_fine_tuned_model_read_what_is_there(
    tmp_path: Path, prompt: str, target: str, said: str
) -> None:
    (found,) = problems(tmp_path, learning(prompt, target))
    assert found.startswith("definitions.py:14: application 'desk': ")
    assert said in found


def test_a_history_of_outcomes_is_there_or_declared_to_come(tmp_path: Path) -> None:
    assert load(project(tmp_path, learning())).applications["desk"].outcome is not None
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(project(tmp_path, learning()), with_files=True)
    (found,) = raised.value.problems
    assert found.startswith("definitions.py:5: source 'labels': there is no file 'labels.csv'.")
    load(project(tmp_path, learning(later=", must_exist=False")), with_files=True)
    (tmp_path / "labels.csv").write_text("shop,at,late\n")
    load(project(tmp_path, learning()), with_files=True)
