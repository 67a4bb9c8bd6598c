"""A stage on several nodes: its TrainJob, and how a launching pod comes back to it.

The real `kubernetes` client speaks to an API on loopback; what a job looks like is checked against the client's own
types and against the fields that Kubeflow Trainer 2.2 lets a TrainJob patch.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.common import outputs
from components.common.errors import ExitCode
from components.common.launch.manifest import PASSED_ON
from tests.common.kube_api import KubeApi
from tests.common.launch.trainjob_world import World, ends_well, running


def test_a_job_runs_to_its_outputs(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.script = ends_well(world)
    assert world.launch() == ExitCode.OK
    assert (world.folder / "out" / "model" / "encoder.safetensors").read_bytes() == b"weights"
    assert (world.folder / "out" / "model" / outputs.MARKER).exists()
    told = json.loads(world.output_file.read_text())
    assert told["artifacts"]["model"]["artifacts"][0]["metadata"] == {"step": 6}
    said = capsys.readouterr().out
    assert said.count("step 1") == said.count("step 2") == 1 and said.index("step 1") < said.index("step 2")
    assert "2 of 2 nodes running" in said
    assert api.jobs, "a job that is done stays to be looked at; it goes with its run"


def test_the_manifest_is_what_trainer_takes(world: World, api: KubeApi) -> None:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u1", "controller": True}
    api.pods["launcher"] = {"metadata": {"name": "launcher", "uid": "u2", "labels": {}, "ownerReferences": [owner]}}
    api.script = ends_well(world)
    assert world.launch() == ExitCode.OK
    job = api.job
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1" and job["kind"] == "TrainJob"
    (reference,) = job["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["name"], reference["uid"]) == ("Workflow", "w", "u1")
    spec = job["spec"]
    assert set(spec) == {"runtimeRef", "trainer", "runtimePatches", "activeDeadlineSeconds"}
    assert spec["runtimeRef"]["name"] == "torch-distributed" and spec["activeDeadlineSeconds"] == 7200
    trainer = spec["trainer"]
    assert set(trainer) == {"image", "command", "env", "numNodes", "numProcPerNode", "resourcesPerNode"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "16", "memory": "65536Mi", "nvidia.com/gpu": "8"}
    pod = patched_pod(job)
    check(trainer["env"], "list[V1EnvVar]")
    check(trainer["resourcesPerNode"], "V1ResourceRequirements")
    check(pod, "V1PodSpec")
    assert set(pod) <= PATCHABLE and set(pod["containers"][0]) <= {"name", "env", "volumeMounts", "securityContext"}
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16384Mi"}} in pod["volumes"]


# PodSpecPatch of Kubeflow Trainer's API v1alpha1, as its documentation lists it.
PATCHABLE = {
    "serviceAccountName", "volumes", "initContainers", "containers", "imagePullSecrets", "securityContext",
    "nodeSelector", "affinity", "tolerations", "schedulingGates",
}  # fmt: skip


def patched_pod(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    return dict(replicated["template"]["spec"]["template"]["spec"])


def check(value: Any, kind: str) -> None:
    """Every field exists in the client's type of that name, at every depth."""
    from kubernetes.client import models

    if kind.startswith("list["):
        for one in value:
            check(one, kind[5:-1])
    elif kind.startswith("dict("):
        assert isinstance(value, dict)
    elif kind in ("str", "int", "bool", "object"):
        assert kind == "object" or isinstance(value, {"str": str, "int": int, "bool": bool}[kind]), (value, kind)
    else:
        model = getattr(models, kind)
        fields = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
        assert not set(value) - set(fields), (kind, set(value) - set(fields))
        for name, inner in value.items():
            check(inner, fields[name])


def test_secrets_go_by_reference_and_paths_become_addresses(world: World, api: KubeApi) -> None:
    api.script = ends_well(world)
    assert world.launch() == ExitCode.OK
    trainer = api.job["spec"]["trainer"]
    assert "never in a manifest" not in json.dumps(api.job)
    env = {entry["name"]: entry for entry in trainer["env"]}
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "longtake-s3"
    assert env["AWS_ENDPOINT_URL"]["valueFrom"]["configMapKeyRef"]["name"] == "longtake-env"
    assert env["LONGTAKE_CACHE"]["value"] == str(world.cache) and env["LONGTAKE_PIPELINE_RUN"]["value"] == "run-1"
    assert {name for name, entry in env.items() if "value" in entry} <= {*PASSED_ON, "LONGTAKE_CACHE"}
    command = trainer["command"]
    assert command[: command.index("python", 1)][-1] == "--"
    value = {flag: command[command.index(flag) + 1] for flag in ("--frames", "--index", "--model", "--method")}
    assert value["--frames"] == "s3://longtake/kfp/frames" and value["--index"] == "s3://longtake/kfp/index"
    assert value["--model"].startswith(str(world.cache)) and value["--method"] == "dino"


def test_a_retried_pod_goes_on_with_its_job(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.script = ends_well(world)
    assert world.launch() == ExitCode.OK
    (world.folder / "out").rename(world.folder / "lost with its pod")
    assert world.launch() == ExitCode.OK
    assert api.asked.count("POST trainjobs") == 1 and "going on with the TrainJob" in capsys.readouterr().out
    assert (world.folder / "out" / "model" / "encoder.safetensors").exists()


def test_a_failed_job_is_made_anew(world: World, api: KubeApi) -> None:
    api.script = [running, lambda api: api.condition("Failed", "backoff limit")]
    assert world.launch() == ExitCode.CRASH
    api.script = [lambda api: None, *ends_well(world)]
    assert world.launch() == ExitCode.OK
    assert api.asked.count("POST trainjobs") == 2


def test_a_job_that_is_done_but_left_nothing_is_made_anew(world: World, api: KubeApi) -> None:
    api.script = ends_well(world)
    assert world.launch() == ExitCode.OK
    outputs.remove(world.cache / "launch")
    api.script = [lambda api: None, *ends_well(world)]
    assert world.launch() == ExitCode.OK
    assert api.asked.count("POST trainjobs") == 2


def test_another_task_has_another_job(world: World, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for run in ("run-1", "run-2"):
        monkeypatch.setenv("LONGTAKE_PIPELINE_RUN", run)
        api.script = ends_well(world)
        assert world.launch() == ExitCode.OK
        names.append(api.job["metadata"]["name"])
        api.jobs.clear()
        api.pods.clear()
    assert len(set(names)) == 2
