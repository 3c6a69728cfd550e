"""An application: features, prompt, model, guards, freshness and service level, declared once for both paths.

Invariant: a prompt template sees a feature only as it is *printed*: rounded to its declared step. So two
requests whose figures print alike have the same prompt, and an answer may be reused exactly then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.definitions.conversation import Conversation
from antiphon.definitions.degradation import WhenUnavailable, target_of
from antiphon.definitions.documents import Retrieval, RetrievalSpec
from antiphon.definitions.granted import model_owner, owner_of
from antiphon.definitions.guards import AnyGuard, JudgeGuard
from antiphon.definitions.learning import FineTune, GateExemption, Gates, Outcome, Rollout
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.definitions.outcome_shape import ANY_LABEL, OutcomeShape, shape_of
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric, ShadowMeasure
from antiphon.definitions.place import caller, declared
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.sensitivity import Tags
from antiphon.definitions.signals import THUMBS, Signal
from antiphon.definitions.tools import ToolBounds, ToolSpec, spec_of


class Decoding(msgspec.Struct, frozen=True):
    """Sampling parameters of an application. Temperature 0 is greedy.

    Attributes:
        max_tokens: most tokens of an output.
        temperature: from 0 (the most probable token) to 10.
        top_p: tokens are drawn from the smallest set with this probability, above 0 and at most 1.
        seed: of the random numbers; the same request with the same seed gives the same text.
        stop: texts that end the output.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Figure(msgspec.Struct, frozen=True):
    """Print rule of one feature, and the role in which a text may state its figure.

    Attributes:
        feature: ``view.feature``.
        step: numbers are rounded half up to a multiple of it; this is also the reuse tolerance.
            ``0`` prints the value as it is (text, whole numbers).
        unit: the words that follow the number in a text, first one canonical (``("minutes", "min")``).
        roles: words that name the role; a number with this unit is this figure's when one of them is the
            nearest role named around it.
        scale: multiplies the value before printing (``100`` prints a share as a percentage).
    """

    feature: str
    step: float = 0.0
    unit: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.feature, str):
            # ``Congestion.delay_2h`` is more than a text; what is kept of it is.
            msgspec.structs.force_setattr(self, "feature", str(self.feature))


class Freshness(msgspec.Struct, frozen=True):
    """Freshness contract of a view: the maximum age and minimum source quality of its values, and the remedy beyond
    them.

    ``flag`` serves the value and says so in the receipt; ``default`` serves ``None``; ``reject`` refuses. The same
    happens when less than ``min_source_quality`` of the source rows behind the snapshot were without a defect.

    ``previous`` serves the last value that met the contract: of an earlier snapshot whose source was good enough, or as
    it was when it was last young enough. ``recompute`` computes the entity's features from source and log at once, for
    at most ``within``; the new value counts when it meets the contract. Where there is none, ``otherwise`` happens.
    The receipt records which happened.

    Attributes:
        max_age: greatest age of a value at the request's moment, a duration such as ``"15m"``.
        when_stale: the remedy for a value that is older, or of too poor a source.
        min_source_quality: least share of source rows without a defect, from 0 to 1.
        otherwise: the remedy where ``previous`` or ``recompute`` found no value.
        within: longest time of ``recompute``, a duration.
    """

    max_age: str
    when_stale: Literal["reject", "flag", "default", "previous", "recompute"] = "flag"
    min_source_quality: float = 0.0
    otherwise: Literal["reject", "flag", "default"] = "flag"
    within: str = "1s"

    @property
    def withheld(self) -> Literal["reject", "flag", "default"]:
        """Remedy for a stale value that no other value replaces."""
        if self.when_stale == "previous" or self.when_stale == "recompute":
            return self.otherwise
        return self.when_stale


class Reuse(msgspec.Struct, frozen=True):
    """Rule by which a stored answer may be served.

    ``never``: always generate. ``fingerprint``: while every figure still prints alike. ``age``: while the
    answer is younger than ``max_age`` of event time. ``always``: whatever is stored, generating only when
    nothing is (a briefing). Apart from that, ``identical_prompts`` lets a prompt that was generated before, by
    any release of the tenant with the same decoding and guards, be answered with what it gave.

    ``refreshed``: after each publication the worker makes the answers about so many of the entities that are asked
    about most anew where their figures print otherwise now, while no other batch work runs.

    Attributes:
        mode: the rule.
        max_age: greatest age of a stored answer, for the mode ``age``.
        identical_prompts: whether a prompt that was generated before is answered with the same text.
        refreshed: number of entities, from 0 to 10,000, whose answers are refreshed.
    """

    mode: Literal["never", "fingerprint", "age", "always"] = "fingerprint"
    max_age: str | None = None
    identical_prompts: bool = True
    refreshed: int = 0


class SLO(msgspec.Struct, frozen=True):
    """Service level of the online path; durations are texts such as ``"800ms"``.

    Rollouts are judged by ``ttft_p99`` and ``latency_p99``. The engine holds batch work back for the sake of all of it:

    Attributes:
        ttft_p99: from the request to the first token.
        latency_p99: from the request to the last.
        tpot_p99: a token after the first one, on average over an answer.
        slowdown: how much longer than in an engine without batch work an answer may take, at every token of it: 0.1 is
            a tenth. ``None`` leaves the bounds in seconds alone, and batch work takes all the time that they leave.
        tokens: of prompt and output together, so many an answer may take on average, as gates see it.
    """

    ttft_p99: str = "2s"
    latency_p99: str = "10s"
    tpot_p99: str | None = None
    slowdown: float | None = 0.25
    # Unset so that releases keep their hashes over an upgrade.
    tokens: int | msgspec.UnsetType = msgspec.UNSET


class ApplicationSpec(msgspec.Struct, frozen=True):
    """The declared application as a plain value: what a release pins and a gateway reads.

    ``features`` maps the view's name, ``OWNER/VIEW`` of a granted one, to its definition version (``on_demand`` holds
    the views that are computed when something is asked), ``entity_keys`` are the key columns a request must carry,
    ``output_schema`` is JSON schema text or ``None`` for free text (as text, because the order of its properties is the
    order in which they are written, and so part of what it is), ``classes`` are the enum properties whose probability
    is measured from token log-probabilities. ``model`` is what answers: the base model's name until a fine-tuned
    version is released, whose spec names that version; of a model that another tenant grants ``OWNER/APPLICATION.vN``.
    ``tags`` are those of the features of views that declare any, by full name: the input of policies. ``fallback`` are
    the engines that are asked in order when the release's own does not answer (``ENGINE`` or ``ENGINE/MODEL``).
    ``ungated`` is unset where releases pass gates before they get traffic.
    ``retrievals`` are what is looked up in documents; their definition versions are pinned like those of views.
    """

    name: str
    features: dict[str, str]
    entity_keys: tuple[str, ...]
    prompt: Prompt
    model: str
    decoding: Decoding
    output_schema: str | None
    classes: tuple[str, ...]
    figures: tuple[Figure, ...]
    guards: tuple[AnyGuard, ...]
    freshness: dict[str, Freshness]
    reuse: Reuse
    slo: SLO
    rollout: Rollout
    purpose: str
    owner: str
    outcome: Outcome | None = None
    fine_tune: FineTune | None = None
    gates: Gates = Gates()
    tags: dict[str, Tags] = {}
    on_demand: tuple[OnDemandSpec, ...] = ()
    fallback: tuple[str, ...] = ()
    when_unavailable: WhenUnavailable = WhenUnavailable()
    # Unset for English, so that releases and stored answers keep their hashes over an upgrade.
    locale: str | msgspec.UnsetType = msgspec.UNSET
    ungated: GateExemption | msgspec.UnsetType = msgspec.UNSET
    retrievals: tuple[RetrievalSpec, ...] | msgspec.UnsetType = msgspec.UNSET
    # Unset for one that answers single questions, for the same reason.
    conversation: Conversation | msgspec.UnsetType = msgspec.UNSET
    tools: tuple[ToolSpec, ...] | msgspec.UnsetType = msgspec.UNSET
    tool_bounds: ToolBounds | msgspec.UnsetType = msgspec.UNSET
    # Unset where one outcome is declared, or none, and no metric, for the same reason.
    more_outcomes: tuple[Outcome, ...] | msgspec.UnsetType = msgspec.UNSET
    own_metrics: tuple[OwnMetric, ...] | msgspec.UnsetType = msgspec.UNSET
    judge_metrics: tuple[JudgeMetric, ...] | msgspec.UnsetType = msgspec.UNSET
    signals: tuple[Signal, ...] | msgspec.UnsetType = msgspec.UNSET

    def signal(self, name: str) -> Signal | None:
        """A declared signal, or the thumbs that every application has; ``None`` where there is none of the name."""
        return next((one for one in (*(self.signals or ()), THUMBS) if one.name == name), None)

    @property
    def judged_signals(self) -> tuple[Signal, ...]:
        """The signals by which a canary is judged."""
        named = (self.signal(name) for name in self.rollout.signals or ())
        return tuple(one for one in named if one is not None)

    @property
    def user_metrics(self) -> dict[str, OwnMetric | JudgeMetric]:
        """The user's own metrics and those of judges, by name."""
        found: list[OwnMetric | JudgeMetric] = [*(self.own_metrics or ()), *(self.judge_metrics or ())]
        return {one.name: one for one in found}

    @property
    def text_locale(self) -> str:
        """The locale of the output's texts."""
        return self.locale or "en"

    @property
    def versions(self) -> dict[str, str]:
        """Every view's definition version: of stored and on-demand ones, and of documents."""
        return self.pinned | {view.name: view.definition_version for view in self.on_demand}

    @property
    def documents(self) -> dict[str, str]:
        """The documents that are retrieved from, with their definition versions."""
        return {one.view: one.definition_version for one in self.retrievals or ()}

    @property
    def pinned(self) -> dict[str, str]:
        """Views and documents that must be published for the application to answer, with definition versions."""
        return self.features | self.documents

    @property
    def own_features(self) -> dict[str, str]:
        """Views that are the tenant's own, with their definition versions."""
        return {view: version for view, version in self.features.items() if owner_of(view) is None}

    @property
    def own_pinned(self) -> dict[str, str]:
        """The part of :attr:`pinned` that is the tenant's own."""
        return self.own_features | self.documents

    @property
    def granted_models(self) -> tuple[str, ...]:
        """Models of other tenants that answer, stand in or judge, as ``OWNER/APPLICATION.vN``."""
        judges = (guard.engine for guard in self.guards if isinstance(guard, JudgeGuard) and guard.engine)
        named = (self.model, *(target_of(one, self.model).model for one in (*self.fallback, *judges)))
        return tuple(dict.fromkeys(model for model in named if model_owner(model) is not None))

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Every declared outcome; the first decides in shadow."""
        return () if self.outcome is None else (self.outcome, *(self.more_outcomes or ()))

    @property
    def shapes(self) -> tuple[OutcomeShape, ...]:
        """Every declared outcome, held against the output's schema."""
        return tuple(
            msgspec.structs.replace(
                _shape(one.property, one.positive, one.name or "", self.output_schema),
                sample=one.sample or 1.0,
                delay=parse_duration(one.delay).total_seconds() if one.delay else None,
            )
            for one in self.outcomes
        )

    @property
    def shape(self) -> OutcomeShape | None:
        """The first declared outcome; ``None`` without one."""
        return self.shapes[0] if self.outcome is not None else None

    @property
    def shadow_measure(self) -> ShadowMeasure:
        """The metric that decides in shadow: that which the rollout names, else that of the first outcome."""
        named = next((one for one in self.own_metrics or () if one.name == self.rollout.metric), None)
        return named or self.shape or ANY_LABEL

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the first declared outcome, in their order; none without one, or where it has none."""
        return self.shapes[0].labels if self.outcome is not None else ()

    @property
    def schema(self) -> dict[str, Any] | None:
        """The output schema as a value, in its own order."""
        return None if self.output_schema is None else _schema(self.output_schema)

    @property
    def writes_free_text(self) -> bool:
        """True when the output is a text, or has one whose words no enum fixes."""
        return self.schema is None or _has_free_text(self.schema)


@lru_cache(maxsize=256)
def _schema(text: str) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])


def _has_free_text(part: object) -> bool:
    """True when a schema, or a part of it, describes a text without an enum."""
    if isinstance(part, list):
        return any(_has_free_text(one) for one in part)
    if not isinstance(part, dict) or "enum" in part or "const" in part:
        return False
    kind = part.get("type")
    return "string" in (kind if isinstance(kind, list) else (kind,)) or any(map(_has_free_text, part.values()))


@lru_cache(maxsize=256)
def _shape(property: str | None, positive: str | None, name: str, schema: str | None) -> OutcomeShape:
    return shape_of(property, positive, name, None if schema is None else _schema(schema))


class Application:
    """A declared application: features, prompt, model, rules and service level under one name.

    It is used as a ``model`` name over HTTP, and by batch jobs. Mistakes are not raised here: ``antiphon plan`` lists
    all mistakes of a file at once, with their lines.

    Args:
        name: lower-case letters, digits and hyphens.
        features: feature views and on-demand views whose features the prompt may print.
        prompt: the template, system text and examples.
        model: name of a pulled model, or a :class:`FineTune`.
        purpose: purpose of use, an input of policies.
        entities: entities whose keys a request carries beside those of the views.
        output: JSON schema of type object that outputs meet; ``None``: free text.
        decoding: sampling parameters.
        figures: print rule of each feature that the prompt reads.
        guards: checks of the output's texts.
        locale: language and region of the output's texts, such as ``de`` or ``fr_CA``, in which figures are read.
        freshness: freshness contract by view.
        reuse: rule for stored answers.
        slo: service level of the online path.
        rollout: stages of a new release, and the judge's thresholds.
        outcome: the truth that arrives later, for evaluation and fine-tuning; of several the first decides in shadow.
        signals: what users do with answers or say of them, beside thumbs.
        gates: checks that a release passes before it gets traffic.
        ungated: why releases go live without gates, as a sentence or a :class:`GateExemption`; empty: they do not.
        retrievals: what is looked up in documents for the prompt.
        conversation: rule by which earlier turns are seen; ``None``: it answers single questions.
        tools: functions declared by :func:`tool` that the model may call before it answers, within ``tool_bounds``.
        metrics: functions under ``@metric`` and :class:`JudgeMetric` that evaluations call for each row.
        fallback: engines to try in order, ``ENGINE`` or ``ENGINE/MODEL`` each.
        when_unavailable: answer when no engine answers: a rule's name or a :class:`WhenUnavailable`.
        owner: owner's name.

    Example::

        desk = Application("flight-desk", features=[Congestion], prompt=Prompt("{{ features.congestion.delay }}"),
                           model="smollm2-135m", purpose="delays", figures=[Figure("congestion.delay", step=1)])
    """

    def __init__(
        self,
        name: str,
        *,
        features: Sequence[Any],
        prompt: Prompt,
        model: str | FineTune,
        purpose: str,
        entities: Sequence[Any] = (),
        output: Mapping[str, Any] | None = None,
        decoding: Decoding | None = None,
        figures: Sequence[Figure] = (),
        guards: Sequence[AnyGuard] = (),
        freshness: Mapping[Any, Freshness] | None = None,
        reuse: Reuse | None = None,
        slo: SLO | None = None,
        rollout: Rollout | None = None,
        outcome: Outcome | Sequence[Outcome] | None = None,
        signals: Sequence[Signal] = (),
        gates: Gates | None = None,
        ungated: str | GateExemption = "",
        conversation: Conversation | None = None,
        tools: Sequence[Any] = (),
        tool_bounds: ToolBounds | None = None,
        metrics: Sequence[Any] = (),
        fallback: Sequence[str] = (),
        when_unavailable: str | WhenUnavailable = "refuse",
        owner: str = "",
        locale: str = "en",
        retrievals: Sequence[Retrieval] = (),
    ) -> None:
        self.place = caller()
        self.name = name
        self.features = tuple(features)
        self.entities = tuple(entities)
        self.prompt = prompt
        self.model = model.base if isinstance(model, FineTune) else model
        self.fine_tune = model if isinstance(model, FineTune) else None
        self.purpose = purpose
        self.output = dict(output) if output is not None else None
        self.decoding = decoding or Decoding()
        self.figures = tuple(figures)
        self.guards = tuple(guards)
        self.freshness = dict(freshness or {})
        self.reuse = reuse or Reuse()
        self.slo = slo or SLO()
        self.rollout = rollout or Rollout()
        given = tuple(outcome) if isinstance(outcome, list | tuple) else () if outcome is None else (outcome,)
        self.outcome: Any = given[0] if given else None
        self.more_outcomes: tuple[Any, ...] = given[1:]
        self.signals: tuple[Any, ...] = tuple(signals) if isinstance(signals, list | tuple) else (signals,)
        self.gates = gates or Gates()
        self.ungated = GateExemption(ungated) if isinstance(ungated, str) and ungated else ungated
        self.conversation = conversation
        self.tools = tuple(spec_of(one) for one in tools)
        self.tool_bounds = tool_bounds
        self.metrics = metrics
        self.fallback = tuple(fallback) if isinstance(fallback, list | tuple) else fallback
        self.when_unavailable = (
            WhenUnavailable(when_unavailable) if isinstance(when_unavailable, str) else when_unavailable  # type: ignore[arg-type]
        )
        self.owner = owner
        self.locale = locale
        self.retrievals: tuple[Any, ...] = tuple(retrievals)
        declared(self)
