"""A compiled pipeline on the server: one version for each content, used again where it is there already."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.common.errors import StageError
from pipelines.submit import spec
from pipelines.submit.api import Json, Kfp

REVISION_DIGITS, HASH_DIGITS = 12, 10
MOST_BYTES = 32 * 2**20  # what the server's upload takes


@dataclass(frozen=True)
class Version:
    """A pipeline version on the server; `reused` where an equal one was there."""

    pipeline_id: str
    version_id: str
    name: str
    reused: bool


def version_name(documents: list[Json], revision: str) -> str:
    """`<git revision>-<hash of the compiled pipeline, parameters included>`: equal names mean equal content."""
    head = revision.partition("-")[0][:REVISION_DIGITS].lower() or "unknown"
    return f"{head}-{spec.content_hash(documents)[:HASH_DIGITS]}"


def without_cache(documents: list[Json]) -> list[Json]:
    """The same pipeline with the cache off for every task."""

    def off(dag: Json) -> Json:
        return {**dag, "tasks": {key: {**task, "cachingOptions": {}} for key, task in dag["tasks"].items()}}

    first = dict(documents[0])
    first["root"] = {**first["root"], "dag": off(first["root"]["dag"])}
    first["components"] = {
        name: {**entry, "dag": off(entry["dag"])} if "dag" in entry else entry
        for name, entry in first.get("components", {}).items()
    }
    return [first, *documents[1:]]


def upload(api: Kfp, documents: list[Json], revision: str) -> Version:
    """Find the version of this content, or upload it.

    Args:
        api: the server.
        documents: the compiled pipeline.
        revision: git revision that it was compiled from.

    Raises:
        StageError: the server refuses it; nothing runs yet.
    """
    pipeline = _pipeline(api, documents[0]["pipelineInfo"]["name"])
    name = version_name(documents, revision)
    if found := _version(api, pipeline, name):
        return Version(pipeline, found, name, reused=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
        if file.stat().st_size > MOST_BYTES:
            raise StageError(f"the compiled pipeline has {file.stat().st_size} bytes, the server takes {MOST_BYTES}")
        made = api.call(
            "upload the pipeline",
            api.uploads.upload_pipeline_version,
            str(file),
            name=name,
            display_name=name,
            pipelineid=pipeline,
            description=f"git {revision}",
        )
    return Version(pipeline, str(made["pipeline_version_id"]), name, reused=False)


def start(api: Kfp, version: Version, name: str, parameters: dict[str, Any], experiment: str, where: Any) -> str:
    """Create a run and return its id.

    Args:
        api: the server.
        version: what to run.
        name: of the run, for people.
        parameters: runtime parameters; those left out take the version's defaults.
        experiment: name of the experiment, made on first use.
        where: the Cluster: pipeline root and service account.
    """
    import kfp_server_api as models

    body = models.V2beta1Run(
        display_name=name,
        experiment_id=_experiment(api, experiment),
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=models.V2beta1RuntimeConfig(parameters=parameters, pipeline_root=where.pipeline_root),
        service_account=where.service_account,
    )
    return str(api.call("create the run", api.run_service.run_service_create_run, body)["run_id"])


def _pipeline(api: Kfp, name: str) -> str:
    """Id of the pipeline of that name, made on first use."""
    import kfp_server_api as models

    service = api.pipelines
    known = api.maybe("find the pipeline", service.pipeline_service_get_pipeline_by_name, name, namespace=api.namespace)
    if known is None:
        body = models.V2beta1Pipeline(name=name, display_name=name, namespace=api.namespace or None)
        known = api.call("create the pipeline", service.pipeline_service_create_pipeline, body)
    return str(known["pipeline_id"])


def _version(api: Kfp, pipeline: str, name: str) -> str:
    listing = api.pipelines.pipeline_service_list_pipeline_versions
    versions = api.pages("list the pipeline's versions", listing, "pipeline_versions", pipeline)
    return next((str(v["pipeline_version_id"]) for v in versions if name in (v.get("name"), v.get("display_name"))), "")


def _experiment(api: Kfp, name: str) -> str:
    """Id of the experiment of that name, made on first use."""
    import kfp_server_api as models

    service = api.experiments
    for found in api.pages("list the experiments", service.experiment_service_list_experiments, "experiments"):
        if found.get("display_name") == name:
            return str(found["experiment_id"])
    body = models.V2beta1Experiment(display_name=name, namespace=api.namespace or None)
    return str(api.call("create the experiment", service.experiment_service_create_experiment, body)["experiment_id"])
