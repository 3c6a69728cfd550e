"""What lies outside of an experiment's blast radius is refused, each part of it by itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.operations.chaos.test_reading import action, made

from antiphon.core.errors import InvalidInputError
from antiphon.operations.chaos.blast_radius import Surroundings, plan_of, target

HERE = Surroundings(
    environment="dev",
    processes=("engine", "gateway-1", "gateway-2", "worker"),
    proxies={"redis": "other", "store": "http", "sealed": "tls", "quiet": ""},
    streams=("orders",),
    applications=("desk",),
    tenants=("default",),
    models=("desk.v3", "desk.v4"),
    own_disk=True,
    available=4_000_000_000,
)
ALL = {
    "processes": ["gateway", "worker", "engine"], "proxies": ["redis", "store", "sealed", "quiet"],
    "streams": ["orders"],
    "machine": ["cpu", "memory", "disk"], "models": ["desk.v3"],
}  # fmt: skip


def refusals(method: list[dict[str, Any]], here: Surroundings = HERE, named: str | None = None, **radius: Any) -> str:
    found = made(method=method, extensions=[{"name": "antiphon", "blast-radius": ALL | radius}])
    return " ".join(plan_of(found, here, named).refusals)


FAULTS = {
    "processes": action("kill_process", process="worker"),
    "proxies": action("delay_port", proxy="redis", duration="1s", delay="10ms"),
    "streams": action("send_events", stream="orders", duration="1s"),
    "machine": action("load_cpu", duration="1s"),
    "models": action("damage_model", model="desk.v3", duration="1s"),
}


@pytest.mark.parametrize("part", FAULTS)
def test_every_part_is_refused_that_the_radius_does_not_name(part: str) -> None:
    assert refusals([FAULTS[part]]) == ""
    assert f"outside of its radius ({part})" in refusals([FAULTS[part]], **{part: []})


def test_a_radius_names_a_kind_or_one_process_of_it() -> None:
    assert "outside" in refusals([action("kill_process", process="gateway-1")], processes=["gateway-2"])
    assert refusals([action("kill_process", process="gateway-1")], processes=["gateway-1"]) == ""
    assert target("gateway", HERE.processes) == "gateway-1"
    assert target("gateway-2", HERE.processes) == "gateway-2"
    assert target("front", HERE.processes) is None


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({"processes": ("gateway",)}, "no process 'worker' of this project runs here"),
        ({"environment": "prod"}, "this is prod"),
        ({"rollouts": ("desk",)}, "A rollout of desk is under way"),
        ({"holds": ("A freeze lasts until then (launch).",)}, "A freeze lasts"),
    ],
)
def test_what_there_is_here_is_heeded(here: dict[str, Any], told: str) -> None:
    assert told in refusals([FAULTS["processes"]], msgspec.structs.replace(HERE, **here))


def test_an_environment_must_be_named_that_an_experiment_is_not_for() -> None:
    prod = msgspec.structs.replace(HERE, environment="prod")
    assert refusals([FAULTS["processes"]], prod, "prod") == ""
    assert "this is prod" in refusals([FAULTS["processes"]], prod, "staging")
    assert refusals([FAULTS["processes"]], prod, environments=["prod"]) == ""


def test_a_process_touches_all_that_it_serves() -> None:
    assert "also serve the application desk" in refusals([FAULTS["processes"]], applications=["other"])
    assert "also serve the tenant default" in refusals([FAULTS["processes"]], tenants=["acme"])
    assert refusals([FAULTS["processes"]], tenants=["default"], applications=["desk"]) == ""
    assert refusals([FAULTS["machine"]], tenants=["acme"]) == ""


def test_so_many_processes_at_once() -> None:
    both = [
        action("stop_process", process="worker", duration="2s") | {"background": True},
        action("kill_process", process="gateway"),
    ]
    assert "up to 2 processes at once" in refusals(both)
    assert refusals(both, **{"at-once": 2}) == ""


def test_a_process_with_leases_stands_still_for_no_longer_than_they_last_unless_that_is_said() -> None:
    still = [action("stop_process", process="worker", duration="11s")]
    assert "longer than its leases of 10 s" in refusals(still)
    assert refusals(still, **{"beyond-lease": True}) == ""
    assert refusals([action("stop_process", process="engine", duration="11s")]) == ""
    plan = plan_of(made(method=[action("stop_process", process="worker", duration="70s", in_transaction=True)]), HERE)
    notes = " ".join(plan.faults[0].notes)
    assert "leases of 10 s may go to another process" in notes
    assert "write lock" in notes
    assert "kills it after 60 s" in notes


def test_the_machine_is_spared() -> None:
    fill = [action("fill_disk", duration="1s", leave=0, most=10)]
    assert refusals(fill) == ""
    assert "shares its file system" in refusals(fill, msgspec.structs.replace(HERE, own_disk=False))
    assert "may take 80%" in refusals([action("load_memory", duration="1s", megabytes=3_300)])
    assert refusals([action("load_memory", duration="1s", megabytes=3_000)]) == ""


SPOKEN = {
    "answer_503": {
        "store": "", "redis": "no HTTP passes the proxy 'redis': name a proxy", "sealed": "within TLS",
        "quiet": "nothing has passed the proxy 'quiet' since it was started", "*": "",
    },
    "expire_certificate": {
        "sealed": "", "redis": "no TLS passes the proxy 'redis': reach its server over TLS (https://, rediss://",
        "store": "no TLS passes the proxy 'store'", "quiet": "nothing has passed", "*": "",
    },
}  # fmt: skip


@pytest.mark.parametrize(("func", "proxy"), [(func, proxy) for func, told in SPOKEN.items() for proxy in told])
def test_a_fault_of_a_protocol_is_refused_where_another_one_passes(func: str, proxy: str) -> None:
    broken = [action(func, proxy=proxy, duration="1s")]
    found = refusals(broken, proxies=["*"])
    assert SPOKEN[func][proxy] in found
    assert bool(found) == bool(SPOKEN[func][proxy])
    assert f"the proxy {proxy!r} is outside" in refusals(broken, proxies=["other"])
    (planned,) = plan_of(made(method=broken), HERE).faults
    first = {"answer_503": "store", "expire_certificate": "sealed"}[func]
    assert planned.touches == (f"proxy {first if proxy == '*' else proxy}",)


def test_a_fault_of_any_proxy_says_what_passes_those_that_there_are() -> None:
    anywhere = [action("expire_certificate", proxy="*", duration="1s")]
    plain = msgspec.structs.replace(HERE, proxies={"redis": "other", "quiet": ""})
    assert "no TLS passes any proxy (quiet: nothing yet, redis: other): reach its" in refusals(
        anywhere, plain, proxies=["*"]
    )
    assert "no proxy answers: declare it" in refusals(
        anywhere, msgspec.structs.replace(HERE, proxies={}), proxies=["*"]
    )


def test_a_proxy_or_stream_that_is_not_there_is_told() -> None:
    away = msgspec.structs.replace(HERE, proxies={}, streams=())
    assert "does not answer" in refusals([FAULTS["proxies"]], away)
    assert "no stream 'orders'" in refusals([FAULTS["streams"]], away)
    assert refusals([action("send_events", stream="*", duration="1s")], streams=["*"]) == ""


def test_a_clock_is_set_apart_by_no_more_than_leases_last_unless_that_is_said() -> None:
    def skew(process: str, by: str) -> list[dict[str, Any]]:
        return [action("skew_clock", process=process, by=by, duration="1s")]

    for by in ("11s", "-5m"):
        assert "apart by more than leases of 10 s" in refusals(skew("worker", by))
        assert refusals(skew("worker", by), **{"beyond-lease": True}) == ""
        assert refusals(skew("engine", by)) == "", "it has none"
    assert refusals(skew("worker", "-10s")) == ""
    denied = msgspec.structs.replace(HERE, no_clocks="The memory of worker cannot be written.")
    assert "cannot be written" in refusals(skew("worker", "5s"), denied)
    for wrong in ("0s", "-0m", "5", "250ms", "1d"):
        with pytest.raises(InvalidInputError):
            refusals(skew("worker", wrong))


def test_a_model_is_damaged_that_a_live_release_uses() -> None:
    def damage(model: str) -> list[dict[str, Any]]:
        return [action("damage_model", model=model, duration="1s")]

    assert refusals(damage("*"), models=["*"]) == ""
    assert "no live release of this project uses" in refusals(damage("desk.v9"), models=["*"])
    nothing = refusals(damage("*"), msgspec.structs.replace(HERE, models=()), models=["*"])
    assert "no live release of this project uses a trained model." in nothing
    assert "outside of its radius (models)" in refusals(damage("desk.v4"))
    found = made(method=damage("*"), extensions=[{"name": "antiphon", "blast-radius": {"models": ["*"]}}])
    assert plan_of(found, HERE).faults[0].touches == ("the weights of desk.v3",)
