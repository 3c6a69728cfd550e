"""Sections of ``antiphon.toml``, a frozen value each."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from antiphon.core.log_files import RotationBounds

MetricsAccess = Literal["open", "key", "off"]

_DURATION = "(?!0+[a-z])[0-9]{1,9}(ms|s|m|h|d)"
PATTERNS = {
    f"^{_DURATION}$": "a duration: a whole number and ms, s, m, h or d, as 15m",
    f"^({_DURATION}|off)$": "a duration, as 15m, or off",
    "^([1-9]|[1-5][0-9]|60)s$": "whole seconds from 1s to 60s",
    "^[a-z][a-z0-9_-]{0,39}$": "a name: a small letter, then small letters, digits, _ and -, 40 at most",
    "^[!-;=?A-~]{1,64}@[A-Za-z0-9.-]{1,255}$": "an address of mail, as ops@example.com",
}
"""Forms of texts to their names in errors."""

_duration, _duration_or_off, _lease, CHANNEL_NAME, MAIL_ADDRESS = PATTERNS
Duration = Annotated[str, msgspec.Meta(pattern=_duration)]
DurationOrOff = Annotated[str, msgspec.Meta(pattern=_duration_or_off)]
Lease = Annotated[str, msgspec.Meta(pattern=_lease)]
"""A move of the project waits a little longer than a minute for a process that may have gone with its host."""
SlotCount = Annotated[int, msgspec.Meta(ge=1, le=64)]
GpuCount = Annotated[int, msgspec.Meta(ge=0, le=1_024)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections: unknown fields are refused."""


class ProjectSettings(Section, frozen=True):
    """The project's owner, and the paths of its definitions and its own files.

    Attributes:
        guard_modules: modules whose functions guards may call in gateways and workers; those in the folder of the
            definitions too.
        tool_modules: the same of tools that applications declare; ``tool_urls``: URLs that tools may call, and what is
            below them.
        workflow_modules: the same of workflows that schedules run, in workers.
    """

    name: str = "antiphon"
    tenant: str = "default"
    environment: str = "dev"
    definitions: str = "definitions.py"
    directory: str = ".antiphon"
    guard_modules: tuple[str, ...] = ()
    tool_modules: tuple[str, ...] = ()
    tool_urls: tuple[str, ...] = ()
    workflow_modules: tuple[str, ...] = ()


class CatalogSettings(Section, frozen=True):
    """The one SQL database, the source of truth.

    Attributes:
        url: ``postgresql://USER@HOST:PORT/DATABASE`` without a password, with libpq's parameters after ``?``; or
            ``sqlite:////PATH``. ``None`` is SQLite in the project's directory.
        password_variable: holds the password of that user; without it libpq looks where it always does (``~/.pgpass``).
        schema: of PostgreSQL, made when it is missing: several projects share a database. ``None`` is the first one of
            the user's ``search_path``.
        connections: most that one process opens.
        authority: PEM file of whom to trust for the server's certificate; ``None`` trusts whom the machine does.
        client_certificate, client_key: PEM files to show when the server asks for them (mutual TLS).
    """

    url: str | None = None
    password_variable: str | None = None
    schema: str | None = None
    connections: int = 10
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class FeaturesSettings(Section, frozen=True):
    """Stores of features outside of the project's folder. Credentials are never written here:
    fields that end in ``variable`` name the environment variable that holds one.

    Attributes:
        online: a Redis or Valkey, ``redis://[USER@]HOST:PORT/DATABASE``, ``rediss://`` with TLS, ``unix:///SOCKET``;
            ``None`` is LMDB in the project's directory.
        online_password_variable: holds the password of that server's user.
        lake: ``s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION`` of an S3-compatible object store, without
            endpoint AWS; ``None`` is the project's directory.
        lake_access_key_variable, lake_secret_key_variable: hold the credentials for it; without them those that the AWS
            client finds by itself.
        snapshots_kept: how long the files of a snapshot that nothing else needs stay after it was last served.
        quarantine_kept: how long rows that rules kept aside stay; how many there were stays for good.
        skew: how often the worker compares batch and online on live data; ``off``: only on request.
        skew_kept: how long what comparisons found stays.
        log: the event log on NATS JetStream, ``nats://[USER@]HOST:PORT[,HOST:PORT …][?replicas=N]`` or ``tls://``;
            ``None`` is the catalog.
        log_password_variable: holds the password of that server's user, or its token where the URL names no user.
        log_credentials: a file with a user's JWT and seed (``.creds``) or an nkey seed alone, instead of a password.
        log_credentials_variable: holds what would be in that file.
        log_authority, online_authority: PEM files of whom to trust for the certificates of log and online store, over
            ``tls://`` and ``rediss://``; ``None`` trusts whom the machine does.
        log_client_certificate, log_client_key, online_client_certificate, online_client_key: PEM files to show to a
            server that asks for them (mutual TLS).
        max_lag: when the consumer is so many events behind, the gateway takes no more of that stream; 0 takes all.
    """

    online: str | None = None
    online_password_variable: str | None = None
    online_authority: str | None = None
    online_client_certificate: str | None = None
    online_client_key: str | None = None
    lake: str | None = None
    lake_access_key_variable: str | None = None
    lake_secret_key_variable: str | None = None
    log: str | None = None
    log_password_variable: str | None = None
    log_credentials: str | None = None
    log_credentials_variable: str | None = None
    log_authority: str | None = None
    log_client_certificate: str | None = None
    log_client_key: str | None = None
    max_lag: int = 1_000_000
    snapshots_kept: Duration = "30d"
    quarantine_kept: Duration = "30d"
    skew: DurationOrOff = "24h"
    skew_kept: Duration = "90d"


class FeastSettings(Section, frozen=True):
    """Feast's feature server, which views over ``Source.feast`` are read from.

    Attributes:
        url: where it listens; ``None``: there is none.
        project: Feast's project, as receipts name it; the server serves one and does not say which.
        token_variable: name of the environment variable that holds the server's bearer token.
        timeout: until when it must have answered.
        failures: after so many in a row it is not asked until ``retry`` is over.
        authority: PEM file of whom to trust for its certificate; ``None`` trusts whom the machine does.
        client_certificate, client_key: PEM files to show when it asks for them (mutual TLS).
    """

    url: str | None = None
    project: str = "feast"
    token_variable: str | None = None
    timeout: Duration = "500ms"
    failures: int = 5
    retry: Duration = "5s"
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class EngineSettings(Section, frozen=True):
    """The engine of the section ``[engine]``.

    Attributes:
        kind: ``llamacpp`` (own process), ``remote`` (an OpenAI-compatible ``url``, or ``antiphon+tls://HOST:PORT`` of
            one of our engines) or ``simulated``.
        models: names of pulled models or paths of GGUF files that the engine loads.
        embedding_models: names of pulled embedding models that the engine serves at ``/v1/embeddings``.
        slots: sequences that may run at once; ``context`` tokens each.
        threads: 0 uses the machine's cores.
        gpu_layers: layers of each model that a build of llama.cpp with a GPU computes there; negative for all.
        rest_after: without requests for so long, a model's weights are let go until the next one; ``None`` keeps them.
        serves: what listens at ``url``: ``vllm`` (started with ``--scheduling-policy priority``), which is told
            priorities and service levels, or ``openai``, any other: batch requests are held back here for its sake.
        gpus: that the engine, or the server at ``url``, uses: its time counts so many times as ``gpu`` in the ledger.
        parameters: request fields beyond OpenAI's (``top_k``, ``min_p``, ``ignore_eos`` …) that what listens at ``url``
            takes; of a vLLM none needs to be named.
        api_key_variable: name of the environment variable that holds the remote engine's key.
        authority: PEM file of whom to trust for the remote engine's certificate; ``None`` trusts whom the machine does.
            An engine that listens trusts it for its clients'.
        client_certificate, client_key: PEM files to show to a remote engine that asks for them (mutual TLS).
        join: engines of this project join its catalog, and gateways and workers route over those that have.
        listen: ``HOST:PORT`` where an engine serves other hosts over mutual TLS, beside its socket; ``advertise``:
            where they reach it, if that is another address.
        certificate, key: PEM files that it shows there.
        first_token: how long an online request waits for an engine's first token before the next one is asked, but at
            most half of ``request_timeout``.
        fallback: what plain models fall back to, ``ENGINE`` or ``ENGINE/MODEL`` each; an application names its own.
        model_check: how often a model of a server at a URL is compared with what it was, beside every time that
            something shows a change; ``off``: never.
        on_change: whether a model that is another one than before under its name is served (``serve``, and it is said),
            or refused until it is accepted (``refuse``).
    """

    kind: Literal["llamacpp", "remote", "simulated"] = "llamacpp"
    models: tuple[str, ...] = ("smollm2-135m",)
    embedding_models: tuple[str, ...] = ()
    slots: int = 16
    context: int = 1024
    threads: int = 0
    gpu_layers: int = 0
    rest_after: str | None = None
    url: str | None = None
    serves: Literal["openai", "vllm"] = "openai"
    gpus: GpuCount = 0
    parameters: tuple[str, ...] = ()
    api_key_variable: str | None = None
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    join: bool = False
    listen: str | None = None
    advertise: str | None = None
    certificate: str | None = None
    key: str | None = None
    first_token: Duration = "30s"
    fallback: tuple[str, ...] = ()
    model_check: DurationOrOff = "5m"
    on_change: Literal["serve", "refuse"] = "serve"


class StandbyEngineSettings(Section, frozen=True):
    """An engine that applications may name in their ``fallback``: any OpenAI-compatible URL.

    Attributes:
        models: names of models here to that server's own names; a name that is not listed is sent as it is.
        serves, gpus, parameters: as of ``[engine]``.
        api_key_variable: name of the environment variable that holds its key.
        authority: PEM file of whom to trust for its certificate; ``None`` trusts whom the machine does.
        client_certificate, client_key: PEM files to show when it asks for them (mutual TLS).
    """

    url: str
    models: dict[str, str] = {}
    serves: Literal["openai", "vllm"] = "openai"
    gpus: GpuCount = 0
    parameters: tuple[str, ...] = ()
    api_key_variable: str | None = None
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class FrontsSettings(Section, frozen=True):
    """Processes in front of servers at URLs, where several hosts share the servers: one host's process speaks with each
    server at a time, the others stand by.

    Attributes:
        listen: ``HOST:PORT`` where the first one serves other hosts over mutual TLS, beside its socket; those of
            further servers take the ports after it. ``None``: each host has processes of its own.
        advertise: where other hosts reach it, if that is another address.
        certificate, key: PEM files that it shows there.
        authority: PEM file of whom it trusts for its clients' certificates, and they for its.
        client_certificate, client_key: PEM files by which gateways and workers are let in.
    """

    listen: str | None = None
    advertise: str | None = None
    certificate: str | None = None
    key: str | None = None
    authority: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class GatewaySettings(Section, frozen=True):
    """The gateway's address and bounds.

    Attributes:
        max_connections: connections at once; fewer where the limit of descriptors leaves no room for them.
        max_in_flight: answers under way per path, of all gateways together; ``max_flex``: of ``service_tier: flex``.
        request_timeout: how long an answer may take; ``flex_timeout``: one of ``service_tier: flex``.
        queue_timeout: how long an online request may wait for its turn at the engine, but at most half of the
            engine's ``first_token``.
        metrics: who may read ``/metrics``, which names applications and views: anybody who reaches the port (``open``),
            a key that may read (``key``), none (``off``). ``None`` is ``open`` in the environment ``dev`` and ``key``
            in any other.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    max_body_bytes: int = 4_000_000
    max_connections: int = 8_192
    max_in_flight: int = 256
    max_flex: int = 64
    request_timeout: Duration = "120s"
    flex_timeout: Duration = "15m"
    queue_timeout: Duration = "10s"
    batch_concurrency: int = 8
    metrics: MetricsAccess | None = None


class BatchSettings(Section, frozen=True):
    """Files and batches of OpenAI's API.

    Attributes:
        files: where contents of files lie, an object store as in ``[features] lake``; ``None`` is the project's folder.
        files_access_key_variable, files_secret_key_variable: as for the lake.
        tables: ``s3://BUCKET/PREFIX`` below which tables of jobs lie that are ordered over HTTP, with the lake's
            credentials; ``None``: such orders name files of the project alone.
        max_file_bytes: of one uploaded file.
        quota_bytes: what all files of one tenant may come to, those that batches made included.
        files_kept: how long a file stays for which no other time was requested.
        max_requests: requests of one batch.
        batches: how many a worker has in progress at once, shared out over tenants.
        concurrency: requests of all of them, and rows of table jobs, that it has answered at once, shared out over
            tenants.
    """

    files: str | None = None
    files_access_key_variable: str | None = None
    files_secret_key_variable: str | None = None
    tables: str | None = None
    max_file_bytes: int = 209_715_200
    quota_bytes: int = 10_737_418_240
    files_kept: Duration = "30d"
    max_requests: int = 50_000
    batches: int = 8
    concurrency: int = 16


class TelemetrySettings(Section, frozen=True):
    """Logs and traces of this project's processes, in ``logs`` of its directory.

    Attributes:
        traces: whether spans are recorded.
        traces_per_second: so many traces of a process are recorded when there are more, and those of what failed;
            ``OTEL_TRACES_SAMPLER`` decides otherwise.
        metrics: whether workers and engines serve ``/metrics`` on a port of the loopback interface (``open``) or not
            (``off``); without it they do where the gateway's are open.
        max_bytes: at this size a file is set aside, while its process runs.
        files: so many there are of each, with those set aside; the oldest goes.
    """

    traces: bool = True
    traces_per_second: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 2.0
    metrics: Literal["open", "off"] | None = None
    max_bytes: Annotated[int, msgspec.Meta(ge=10_000, le=2**40)] = 20_000_000
    files: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 4

    @property
    def bounds(self) -> RotationBounds:
        return RotationBounds(self.max_bytes, self.files)
