"""Sections of ``antiphon.toml`` about workers, and about how processes are started, watched and scaled."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.settings_sections import Duration, DurationOrOff, Lease, Section, SlotCount


class SlotSettings(Section, frozen=True):
    """The number of runs of each class of work that a worker has under way at once; one class takes none of another's.

    Attributes:
        control: applies. notifications: their deliveries. playbooks: their runs, which may wait for minutes.
    """

    refresh: SlotCount = 2
    backfill: SlotCount = 1
    training: SlotCount = 1
    evaluation: SlotCount = 1
    batch: SlotCount = 2
    control: SlotCount = 4
    notifications: SlotCount = 4
    playbooks: SlotCount = 8

    @property
    def by_work(self) -> dict[str, int]:
        """The slots by class of work."""
        return msgspec.structs.asdict(self)


IdleShare = Annotated[float, msgspec.Meta(gt=0, le=1_000)]


class IdleSharesSettings(Section, frozen=True):
    """The share of a machine's idle time that each kind of background work gets where several have some: 4 is four
    times as much as 1.

    Attributes:
        features: refreshes of them; mostly short. ``backfill``: their past, which has time.
        batch: generation for jobs, evaluations and stored answers.
    """

    features: IdleShare = 4.0
    backfill: IdleShare = 1.0
    training: IdleShare = 1.0
    batch: IdleShare = 1.0

    @property
    def by_work(self) -> dict[str, float]:
        """The shares by kind of work."""
        return msgspec.structs.asdict(self)


class WorkerSettings(Section, frozen=True):
    """Bounds and intervals of the worker: workflows, streamed features, training.

    Attributes:
        lease: how long what this worker does is its own without a sign of life: runs, duties and partitions of streams.
            Another worker takes it over then, and at once where it sees that the process has ended.
        poll: how often new work is looked for when no other process has told of any; usually it begins at once.
        stream_poll: how often a log on NATS is looked at while there is nothing new.
        stream_batch: events in one go at most.
        stream_budget: a batch that takes longer than this is followed by a smaller one.
        stream_shares: among how many workers one stream is divided at most; each of them reads all of it.
        training_governed: whether training is stopped while the engine serves online requests.
        training_pause: for whose: those of engines on the training's own host, or of any engine that is seen.
        training_quiet: how long there must have been none before it goes on.
        training_poll: how often the engine is asked while training is stopped; a remote one also while it runs, our own
            tells by itself of the request for which training is to stop.
        training_dtype: what models are computed in while they are trained: ``bf16``, ``fp32``, or whichever a short
            measurement finds quicker here.
        training_min_share: of a core, that a training is to get beside other work on the machine; when it gets less for
            a minute its priority is raised. 0: it takes only what others leave.
        idle_turn: how long a kind of background work has the machine's idle time while another one waits for it; what
            is due soon goes first. ``off``: all compute at once, as the operating system divides it.
        idle_shares: what each kind gets of that time.
        demand_half_life: after so long a question counts half in telling which entities will be asked about.
        drift: how often the worker compares what is asked and answered with the live release's first week; ``off``:
            only on request.
        nice: the nice value of a worker that `antiphon up` starts, so that gateways and engines come first.
        slots: how many runs of each class of work it has under way at once.
    """

    lease: Lease = "10s"
    poll: Duration = "10s"
    stream_poll: Duration = "50ms"
    stream_batch: int = 2_000
    stream_budget: Duration = "250ms"
    stream_shares: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    refresh: bool = True
    training_governed: bool = True
    training_pause: Literal["host", "everywhere"] = "host"
    training_quiet: Duration = "1s"
    training_poll: Duration = "50ms"
    training_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    training_min_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    idle_turn: DurationOrOff = "5s"
    idle_shares: IdleSharesSettings = IdleSharesSettings()
    demand_half_life: Duration = "6h"
    drift: DurationOrOff = "24h"
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 15
    slots: SlotSettings = SlotSettings()


class SupervisionSettings(Section, frozen=True):
    """Supervision by `antiphon up`.

    Attributes:
        silence: the longest time without a sign of life; ``off``: no bound.
        longest_wait: before a process that dies again and again is started again.
    """

    silence: DurationOrOff = "60s"
    longest_wait: Duration = "15s"

    @property
    def silence_seconds(self) -> float | None:
        """``silence`` in seconds; ``None`` without a bound."""
        return None if self.silence == "off" else parse_duration(self.silence).total_seconds()


class ProxySettings(Section, frozen=True):
    """A proxy between this project and a server, for chaos experiments: `antiphon chaos proxy` serves it.

    Attributes:
        listen: HOST:PORT of its own, which the setting of that server names; ``server``: HOST:PORT behind it.
        authority, authority_key: PEM files of a test authority that clients of the server trust. It signs the
            certificate of ``expire_certificate``, which signs itself without them.
    """

    listen: str
    server: str
    authority: str | None = None
    authority_key: str | None = None


class ProcessesSettings(Section, frozen=True):
    """The number of processes of a kind that `antiphon up` starts.

    Attributes:
        gateways: they share the gateway's port; each has one of its own beside it, the next ones after that port.
        workers: they share runs and streams; one of them has the duties (schedules, housekeeping), under a lease.
        engines: several, or none on this machine, take ``join`` under ``[engine]``; each listens on a port of its own,
            the next ones after that of ``listen``.
    """

    engines: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    gateways: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class EngineHoursSettings(Section, frozen=True):
    """Times at which engines are up beforehand.

    Attributes:
        begins: a cron line in the ``zone``; ``lasts``: from each beginning.
        engines: how many are up then.
    """

    begins: str
    lasts: Duration
    zone: str = "UTC"
    engines: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class ScalingSettings(Section, frozen=True):
    """Engines that `antiphon up` stops while nobody needs them, and starts when somebody does. The most that are up are
    those of ``[processes] engines``.

    Attributes:
        idle: an engine that was not needed for so long is stopped; ``off``: none is.
        least: engines that stay up all the same.
        patience: how long an online request waits for an engine that is being started, before the next one is asked or
            it is refused; but at most half of ``request_timeout``.
        hours: times at which engines are up beforehand.
    """

    idle: DurationOrOff = "off"
    least: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    patience: Duration = "60s"
    hours: tuple[EngineHoursSettings, ...] = ()
