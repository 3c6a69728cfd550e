"""Queries as sources: what is let through, and which edits mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions import project
from antiphon.definitions.sql_query import normal_sql, query_mistakes

SOUND = """
-- one row a shop and day
WITH X AS (SELECT shop, date_trunc('day', sold) AS day, amount FROM orders WHERE amount > 0)
SELECT X.shop, day + INTERVAL 1 DAY AS day, sum(amount::DECIMAL(18, 2)) AS Revenue, count(*) FILTER (WHERE amount > 5),
    list_sum([1, 2])[1], row_number() OVER (PARTITION BY shop ORDER BY day), extract(hour FROM day), 'a  --b' LIKE 'a%'
FROM X, unnest([1, 2]) AS u(v) GROUP BY ALL
"""


def test_what_reads_its_sources_alone_is_let_through() -> None:
    assert list(query_mistakes(SOUND, ["orders"])) == []
    assert list(query_mistakes("FROM Orders", ["orders"])) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "sql must be a text with one SELECT"),
        ("select a from orders; select 1", "sql: 2 statements"),
        ("insert into orders values (1)", "only one SELECT is taken"),
        ("create table x as select * from orders", "only one SELECT is taken"),
        ("copy orders to 'x.csv'", "only one SELECT is taken"),
        ("attach 'other.db'", "only one SELECT is taken"),
        ("pragma version", "only one SELECT is taken"),
        ("describe orders", "only one SELECT is taken"),
        ("select a\nfrom orders\nwhere (", "sql, line 3: syntax error"),
        ("select *\nfrom 'a.parquet'", "sql, line 2: it reads 'a.parquet', which is none of its sources (orders)."),
        ("select * from orders, 'https://a.b/c.csv'", "it reads 'https://a.b/c.csv'"),
        ("select * from orders, other.orders", "it reads 'orders', which is none of its sources"),
        ("select * from orders, information_schema.tables", "it reads 'tables'"),
        ("select * from orders, read_csv('/etc/passwd')", "read_csv may read what is none of its sources"),
        ("select * from orders, glob('*')", "glob may read"),
        ("select * from orders, query('select 1')", "query may read"),
        ("select * from orders, duckdb_secrets()", "duckdb_secrets may read"),
        ('select * from (with "a.csv" as (select 1) select 1), orders, "a.csv"', "'a.csv' is no plain name"),
        ("select now() from orders", "now depends on when it runs"),
        ("select shop,\n current_date from orders", "sql, line 2: current_date depends on when it runs"),
        ("select random() from orders", "random gives another value each time"),
        ("select uuid() from orders", "uuid gives another value each time"),
        ("select * from orders using sample 3", "a sample is another one each time"),
        ("select * from orders tablesample 10%", "a sample is another one each time"),
        ("select current_setting('threads') from orders", "current_setting depends on where it runs"),
        ("select getvariable('x') from orders", "getvariable depends on where it runs"),
        ("select hash(shop) from orders", "hash gives other values in other versions"),
        ("select nosuch(shop) from orders", "there is no function nosuch"),
        ("select * from orders limit ?", "it has a parameter"),
        ("values (1)", "sql reads none of its sources"),
        ("select " + "(" * 5_000 + "1" + ")" * 5_000 + " from orders", "sql"),
    ],
)
def test_everything_else_is_refused(query: str, said: str) -> None:
    assert any(said in mistake for mistake in query_mistakes(query, ["orders"])), list(
        query_mistakes(query, ["orders"])
    )


def test_white_space_comments_and_the_case_of_keywords_mean_nothing() -> None:
    same = normal_sql(SOUND)
    for other in (
        SOUND.replace("\n", "\n\n  "),
        SOUND.replace("-- one row a shop and day", "/* one /* nested */ */"),
        SOUND.replace("SELECT", "select")
        .replace("FROM", "From")
        .replace("GROUP BY", "group  by")
        .replace("SUM", "sum"),
        SOUND.replace("amount > 0", "amount>0").replace("18, 2", "18,2").replace("amount::", "amount :: "),
        SOUND.replace("count(*)", "COUNT ( * )").replace("OVER (PARTITION", "over (partition"),
        SOUND + " ; -- end",
    ):
        assert normal_sql(other) == same


def test_what_could_mean_something_else_differs() -> None:
    for one, other in (
        ("select 'a  b' from t", "select 'a b' from t"),
        ("select 'a -- b' from t", "select 'a ' from t"),
        ('select a as "X" from t', 'select a as "x" from t'),
        ("select a as X from t", "select a as x from t"),
        ("select a - - b from t", "select a --b\n from t"),
        ("select a <= b from t", "select a < b from t"),
        ("select $$a  b$$ from t", "select $$a b$$ from t"),
        ("select 'a\\' as b, 'c  d' from t", "select 'a\\' as b, 'c d' from t"),
        ("select ab from t", "select a b from t"),
        ("select 1.5 from t", "select 1 .5 from t"),
    ):
        assert normal_sql(one) != normal_sql(other)


DEFINITIONS = """
from antiphon import *
shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="{PATH}", event_time="sold")
days = Source.sql("days", sql='''{SQL}''', over=[{OVER}], event_time="day")
@feature_view(entity=shop, source=days)
class Daily:
    revenue = last(col.Revenue)
"""


def load(folder: Path, sql: str = SOUND, over: str = "orders", path: str = "orders.parquet") -> str:
    text = DEFINITIONS.replace("{SQL}", sql).replace("{OVER}", over).replace("{PATH}", path)
    (folder / "definitions.py").write_text(text)
    return project.load(folder).views["daily"].definition_version


def test_the_version_is_that_of_the_normal_query(tmp_path: Path) -> None:
    same = load(tmp_path)
    assert load(tmp_path, SOUND.replace("SELECT", "select").replace("-- one row a shop and day", "")) == same
    assert load(tmp_path, path="elsewhere/orders.parquet") == same
    assert load(tmp_path, SOUND.replace("amount > 0", "amount > 1")) != same


@pytest.mark.parametrize(
    ("sql", "over", "said"),
    [
        ("select 1", "orders", "source 'days': sql reads none of its sources."),
        ("select a\nfrom\nreturns", "orders", "source 'days': sql, line 3: it reads 'returns'"),
        (SOUND, "", "over must be a list of the tables"),
        (SOUND, "'orders'", "over takes tables of files, not 'orders'"),
        (SOUND, "Source.stream('clicks', event_time='at', event_id='id')", "over takes tables of files, not 'clicks'"),
    ],
)
def test_what_is_wrong_is_said_with_both_lines(tmp_path: Path, sql: str, over: str, said: str) -> None:
    with pytest.raises(InvalidDefinitionsError) as caught:
        load(tmp_path, sql, over)
    assert said in str(caught.value)
    assert "definitions.py:5" in str(caught.value)
