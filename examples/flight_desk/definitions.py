"""The flight desk: will my flight leave on time, and what is going on at the airport?

Four applications share everything but the rule by which a stored answer may be served, so that what the rule
costs and what it saves can be measured. A delay counts early departures as zero (the definition of the U.S.
Bureau of Transportation Statistics), so no figure is negative. The first of them, ``desk``, also learns: from whether
flights left on time.
"""

from typing import Any

from antiphon import (
    SLO,
    Application,
    Decoding,
    Entity,
    Figure,
    FigureGuard,
    FineTune,
    Freshness,
    GateExemption,
    Gates,
    MetricGate,
    Outcome,
    Prompt,
    Reuse,
    Rollout,
    Source,
    TrainingWindow,
    col,
    count,
    feature_view,
    last,
    mean,
)

airport = Entity("airport", keys=["origin"])
airline = Entity("airline", keys=["carrier"])
route = Entity("route", keys=["origin", "dest"])

departures = Source.stream(
    "departures", history="sources/departures.parquet",
    event_time="scheduled", available_at="departed", event_id="event_id",
)  # fmt: skip
weather = Source.stream(
    "weather", history="sources/weather.parquet",
    event_time="observed", available_at="reported", event_id="event_id",
)  # fmt: skip


@feature_view(entity=airport, source=departures, refresh="15m", owner="desk")
class Congestion:
    """How the origin's departures have been leaving lately; delays in minutes."""

    delay_2h = mean(col.delay_minutes, window="2h", scale="0.01")
    delay_6h = mean(col.delay_minutes, window="6h", scale="0.01")
    departures_2h = count(window="2h")


@feature_view(entity=airline, source=departures, refresh="6h", owner="desk")
class CarrierHistory:
    """How often this airline leaves more than 15 minutes late."""

    late_share = mean(col.dep_delay > 15, window="28d")


@feature_view(entity=route, source=departures, refresh="6h", owner="desk")
class RouteHistory:
    """How often flights of this route leave more than 15 minutes late."""

    flights = count(window="28d")
    late_share = mean(col.dep_delay > 15, window="28d")


@feature_view(entity=airport, source=weather, refresh="15m", owner="desk")
class Weather:
    """The last observation at the origin; wind in mph."""

    wind = last(col.wind_speed, window="3h", scale="0.01")


FIGURES = [
    Figure("congestion.delay_2h", step=5, unit=("minutes", "minute", "min"), roles=("late", "delay", "behind")),
    Figure("weather.wind", step=5, unit=("mph",), roles=("wind", "gust")),
    Figure("carrier_history.late_share", step=5, scale=100, unit=("%", "percent"), roles=("is late", "airline")),
    Figure("route_history.late_share", step=5, scale=100, unit=("%", "percent"), roles=("route",)),
]

# The names that every text is written with.
NAMES = (
    "{% set airline = {'9E': 'Endeavor', 'AA': 'American', 'AS': 'Alaska', 'B6': 'JetBlue', 'DL': 'Delta',"
    " 'EV': 'ExpressJet', 'F9': 'Frontier', 'FL': 'AirTran', 'HA': 'Hawaiian', 'MQ': 'Envoy', 'OO': 'SkyWest',"
    " 'UA': 'United', 'US': 'US Airways', 'VX': 'Virgin', 'WN': 'Southwest', 'YV': 'Mesa'}"
    ".get(entity.carrier, 'This airline') %}"
    # A code has three letters: whatever else a request brings is no airport, and nothing to obey.
    "{% set origin = entity.origin[:3] %}{% set dest = entity.dest[:3] %}"
    "{% set c = features.carrier_history.late_share %}{% set r = features.route_history.late_share %}"
    "{% set w = features.weather.wind %}{% set d = features.congestion.delay_2h %}"
)

REQUEST = NAMES + (
    "{{ airline }} airline is late {{ c ~ '% of the time' if c is not none else 'sometimes' }},"
    " route to {{ dest }} {{ r ~ '%' if r is not none else 'unknown' }}."
    " Wind {{ w ~ ' mph' if w is not none else 'unknown' }}."
    " Departures at {{ origin }} are {{ d ~ ' minutes late' if d is not none else 'not counted yet' }}."
)

FALLBACK = NAMES + (
    "{% if c is not none %}{{ airline }} is late {{ c }}% of the time. {% endif %}"
    "{% if r is not none %}The route to {{ dest }}: {{ r }}%. {% endif %}"
    "{% if w is not none %}The wind is {{ w }} mph. {% endif %}"
    "{% if d is not none %}Departures at {{ origin }} run {{ d }} minutes late.{% endif %}"
)


def example(
    airline: str, carrier: int, dest: str, route: int, wind: int, origin: str, delay: int, outlook: str
) -> tuple[str, str]:
    """A request as the template writes it, and the answer it should get, in the request's own order."""
    return (
        f"{airline} airline is late {carrier}% of the time, route to {dest} {route}%."
        f" Wind {wind} mph. Departures at {origin} are {delay} minutes late.",
        f'{{"outlook": "{outlook}", "notice": "{airline} is late {carrier}% of the time, the route to {dest} {route}%.'
        f' With wind at {wind} mph, departures at {origin} run {delay} minutes late."}}',
    )


PROMPT = Prompt(
    system=("You are the flight desk. Repeat the figures of the request in one short notice. Use no other figures."),
    examples=(
        example("United", 20, "ORD", 10, 10, "EWR", 5, "on_time"),
        example("Delta", 15, "ATL", 25, 20, "LGA", 35, "delayed"),
        example("Southwest", 10, "DEN", 5, 15, "LGA", 0, "on_time"),
    ),
    template=REQUEST,
)

# What the model is told once it was fine-tuned on this desk: no examples, and each figure with a word for its size.
# The notice has the figures in the request's own order, which is easier to copy. Short, because every word is computed
# again for every answer.
TUNED = NAMES + (
    "{% macro size(figure, bounds) %}{% set at = namespace(n=0) %}"
    "{% for bound in bounds %}{% if figure|int >= bound %}{% set at.n = loop.index %}{% endif %}{% endfor %}"
    " ({{ ['lowest', 'low', 'usual', 'high', 'very high', 'extreme'][at.n] }}){% endmacro %}"
    "{{ origin }} runs {% if d is none %}unknown{% else %}{{ d }} minutes late{{ size(d, [5, 10, 15, 25, 40]) }}"
    "{% endif %}, wind {% if w is none %}unknown{% else %}{{ w }} mph{{ size(w, [5, 10, 15, 20, 30]) }}{% endif %}."
    " {{ airline }} {% if c is none %}unknown{% else %}{{ c }}% late{{ size(c, [15, 20, 25, 30, 40]) }}{% endif %},"
    " route {{ dest }} {% if r is none %}unknown{% else %}{{ r }}%{{ size(r, [10, 15, 20, 30, 40]) }}{% endif %}."
)
NOTICE = NAMES + (
    "{% if label == 'delayed' %}Allow extra time. {% endif %}"
    "{% if d is not none %}Departures at {{ origin }} run {{ d }} minutes late. {% endif %}"
    "{% if w is not none %}The wind is {{ w }} mph. {% endif %}"
    "{% if c is not none %}{{ airline }} is late {{ c }}% of the time.{% endif %}"
    "{% if r is not none %} The route to {{ dest }}: {{ r }}%.{% endif %}"
)

OUTPUT = {
    "type": "object",
    "properties": {
        "outlook": {"type": "string", "enum": ["on_time", "delayed"]},
        "notice": {"type": "string", "maxLength": 170},
    },
    "required": ["outlook", "notice"],
    "additionalProperties": False,
}


FLOWN = Source.table(
    "outcomes",
    path="sources/outcomes.parquet",
    event_time="asked",
    available_at="departed",
    event_id="event_id",
    must_exist=False,  # It is written once flights have left.
)

LEARNS = {
    "model": FineTune(
        base="smollm2-135m",
        prompt=Prompt(system="You are the flight desk.", template=TUNED),
        targets={"notice": NOTICE},
        window=TrainingWindow(history="59d", maturity="6h", embargo="14d"),
        delta_window=TrainingWindow(history="59d", maturity="6h", embargo="1d"),
        examples=1_600,
        learning_rate=1.5e-3,
        text_weight=3.0,
    ),
    # A flight's outcome is known when it has left, which may be late in the night.
    "outcome": Outcome("outlook", positive="delayed", window="24h", history=FLOWN),
    # Two days have a base rate of their own, which nobody knew beforehand: the Brier score may miss it by a little.
    "gates": Gates(
        slices=("origin",),
        rows=100,
        metrics={"brier": MetricGate(advantage=-0.02, behind_live=0.02, disparity=0.1)},
    ),
    # Sized for a desk that is asked a few hundred times a day: a promotion excludes four times the control's bad events
    # once they are more than 15 %, and a Brier score that is worse by 0.08, by pairs. What that finds, the rollout says
    # when it begins.
    "rollout": Rollout(shadow=1.0, shadow_pairs=25, canary=(50,), step_units=20, floor=0.15, quality_margin=0.08),
    "slo": SLO(ttft_p99="15s", latency_p99="20s"),
}


def desk(name: str, reuse: Reuse, **learns: Any) -> Application:
    """The one application, under a name, with a rule for stored answers; one of them also learns."""
    return Application(
        name,
        entities=[airport, airline, route],
        features=[Congestion, CarrierHistory, RouteHistory, Weather],
        prompt=PROMPT,
        output=OUTPUT,
        decoding=Decoding(max_tokens=80),
        figures=FIGURES,
        guards=[FigureGuard("notice", fallback=FALLBACK, retries=1)],
        freshness={Congestion: Freshness("90m", when_stale="flag"), Weather: Freshness("3h", when_stale="flag")},
        reuse=reuse,
        purpose="answer passengers",
        owner="desk",
        # The base model forecasts no delay; what answers before the first training is told from what was trained.
        ungated=GateExemption("the untrained base model opens the desk until its first training", releases="first"),
        **{"model": "smollm2-135m", **learns},
    )


fingerprint = desk("desk", Reuse("fingerprint"), **LEARNS)
briefing = desk("desk-briefing", Reuse("always"))
online = desk("desk-online", Reuse("never"))
by_age = desk("desk-age", Reuse("age", max_age="30m"))
