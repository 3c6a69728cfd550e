"""Writes events as OpenLineage has them, with the classes of its official client, which check what they are given.

The client is imported when an event is written, and only here: it is of the extra ``lineage``. Its transports are not
used: requests leave through :mod:`antiphon.core.http_client`, which checks addresses.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import antiphon
from antiphon.core.errors import SetupError
from antiphon.services.lineage.values import LineageDataset, LineageEvent

PRODUCER = f"https://antiphon.example/source/{antiphon.__version__}"


def require_client() -> None:
    """Refuse to go on without the client.

    Raises:
        SetupError: it is not installed.
    """
    try:
        import openlineage.client.event_v2  # noqa: F401
    except ImportError as error:
        raise SetupError(
            "OpenLineage's client is not installed.",
            where="[lineage]",
            next_step="Install it where the commands and the worker run: pip install 'antiphon[lineage]'.",
        ) from error


def encode(event: LineageEvent) -> bytes:
    """An event as the body of a request: JSON, the same bytes of the same event.

    Raises:
        SetupError: the client is not installed.
        ValueError, TypeError: the event is none that OpenLineage permits.
    """
    require_client()
    from openlineage.client import event_v2 as openlineage
    from openlineage.client.serde import Serde

    made = openlineage.RunEvent(
        eventTime=_time(event.at),
        eventType=openlineage.RunState[event.type],
        run=openlineage.Run(event.run_id, facets=_run_facets(event)),
        job=openlineage.Job(event.namespace, event.job, facets=_job_facets()),
        inputs=[_input(one) for one in event.inputs],
        outputs=[_output(one) for one in event.outputs],
        producer=PRODUCER,
    )
    return Serde.to_json(made).encode()


def document(event: LineageEvent) -> dict[str, Any]:
    """The same as a JSON object; raises as :func:`encode`."""
    found: dict[str, Any] = json.loads(encode(event))
    return found


def _run_facets(event: LineageEvent) -> dict[str, Any]:
    from openlineage.client import facet_v2 as facets

    engine = facets.processing_engine_run.ProcessingEngineRunFacet(
        version=antiphon.__version__, name="Antiphon", producer=PRODUCER
    )
    found: dict[str, Any] = {"processing_engine": engine}
    if event.parent_id is not None and event.parent_job is not None:
        found["parent"] = facets.parent_run.ParentRunFacet(
            run=facets.parent_run.Run(event.parent_id),
            job=facets.parent_run.Job(event.namespace, event.parent_job),
            producer=PRODUCER,
        )
    if event.moment is not None:
        found["nominalTime"] = facets.nominal_time_run.NominalTimeRunFacet(_time(event.moment), producer=PRODUCER)
    if event.failed is not None:
        found["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(
            message=event.failed, programmingLanguage="Python", producer=PRODUCER
        )
    return found


def _job_facets() -> dict[str, Any]:
    from openlineage.client.facet_v2 import job_type_job

    return {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="ANTIPHON", jobType="RUN", producer=PRODUCER
        )
    }


def _input(dataset: LineageDataset) -> Any:
    from openlineage.client import event_v2 as openlineage
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as metrics

    counted: dict[str, Any] = {}
    if dataset.rows is not None:
        counted["dataQualityMetrics"] = metrics.DataQualityMetricsInputDatasetFacet(
            columnMetrics={}, rowCount=dataset.rows, bytes=dataset.bytes, producer=PRODUCER
        )
    return openlineage.InputDataset(dataset.namespace, dataset.name, inputFacets=counted, facets=_facets(dataset))


def _output(dataset: LineageDataset) -> Any:
    from openlineage.client import event_v2 as openlineage
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    counted: dict[str, Any] = {}
    if dataset.rows is not None or dataset.bytes is not None:
        counted["outputStatistics"] = statistics.OutputStatisticsOutputDatasetFacet(
            rowCount=dataset.rows, size=dataset.bytes, fileCount=dataset.files, producer=PRODUCER
        )
    return openlineage.OutputDataset(dataset.namespace, dataset.name, outputFacets=counted, facets=_facets(dataset))


def _facets(dataset: LineageDataset) -> dict[str, Any]:
    from openlineage.client import facet_v2 as facets

    found: dict[str, Any] = {}
    if dataset.version is not None:
        found["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=dataset.version, producer=PRODUCER
        )
    if dataset.columns:
        columns = [facets.schema_dataset.SchemaDatasetFacetFields(one.name, one.type) for one in dataset.columns]
        found["schema"] = facets.schema_dataset.SchemaDatasetFacet(fields=columns, producer=PRODUCER)
    if dataset.alias is not None:
        namespace, name = dataset.alias
        alias = facets.symlinks_dataset.Identifier(namespace, name, type="SOURCE")
        found["symlinks"] = facets.symlinks_dataset.SymlinksDatasetFacet(identifiers=[alias], producer=PRODUCER)
    return found


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
