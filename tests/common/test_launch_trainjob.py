"""A stage on several nodes: its TrainJob, what becomes of it, and one clear line for whatever stops it.

The real `kubernetes` client speaks to an API on loopback; what a job looks like is checked against the client's own
types and against the fields that Kubeflow Trainer 2.2 lets a TrainJob patch.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import KubeApi, status

from components.common import outputs
from components.common.errors import ExitCode
from components.common.launch.__main__ import main
from components.common.launch.manifest import PASSED_ON

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {
    "image": "registry/longtake/train@sha256:0",
    "service_account": "longtake-pipeline",
    "image_pull_secrets": ["pull"],
    "config_map": "longtake-env",
    "config_map_keys": ["MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"],
    "secret": "longtake-s3",
    "secret_keys": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "cache_pvc": "longtake-cache",
    "run_as_user": 10001,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "cpu": 16,
    "memory_gib": 64,
    "shm_gib": 16,
    "accelerator": "nvidia.com/gpu",
    "timeout_h": 2,
    "poll_s": 0.01,
    "unschedulable_s": 0.2,
    "not_started_s": 0.2,
    "api_away_s": 0.5,
}
RUN = "s3://longtake/kfp/longtake/run-1/pretrain"
EXECUTOR_INPUT = {
    "inputs": {
        "artifacts": {
            "frames": {"artifacts": [{"name": "frames", "uri": "s3://longtake/kfp/frames"}]},
            "index": {"artifacts": [{"name": "index", "uri": "minio://longtake/kfp/index"}]},
        }
    },
    "outputs": {"artifacts": {"model": {"artifacts": [{"name": "model", "uri": f"{RUN}/model", "metadata": {}}]}}},
}


class World:
    """A launching pod: its working folder, its cache, its command."""

    def __init__(self, folder: Path, api: KubeApi) -> None:
        self.folder, self.api, self.cache = folder, api, folder / "cache"
        self.output_file = folder / "kfp" / "executor_output.json"
        told = {**EXECUTOR_INPUT, "outputs": {**EXECUTOR_INPUT["outputs"], "outputFile": str(self.output_file)}}
        self.stage = ["python", "-m", "components.pretrain", "--method", "dino"]
        self.stage += ["--frames", "/s3/longtake/kfp/frames", "--index", "/minio/longtake/kfp/index"]
        self.stage += ["--model", str(folder / "out" / "model"), "--param", "seed=0"]
        self.stage += ["--executor-input", json.dumps(told)]

    def arguments(self, nodes: int = 2, gpus: int = 8, **changes: Any) -> list[str]:
        settings = json.dumps({**SETTINGS, **changes})
        return ["--nodes", str(nodes), "--gpus", str(gpus), "--settings", settings, "--", *self.stage]

    def launch(self, **changes: Any) -> int:
        return main(self.arguments(**changes))

    def nodes_write(self, api: KubeApi) -> None:
        """What rank 0 leaves in the shared cache."""
        command = api.job["spec"]["trainer"]["command"]
        model = Path(command[command.index("--model") + 1])
        model.mkdir(parents=True)
        (model / "encoder.safetensors").write_bytes(b"weights")
        outputs.mark(model, "pretrain", "model")
        told = json.loads(command[command.index("--executor-input") + 1])
        artifacts = {"model": {"artifacts": [{"name": "model", "uri": f"{RUN}/model", "metadata": {"step": 6}}]}}
        Path(told["outputs"]["outputFile"]).write_text(json.dumps({"artifacts": artifacts}))


@pytest.fixture
def api() -> Iterator[KubeApi]:
    api = KubeApi()
    yield api
    api.close()


@pytest.fixture
def world(tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_PIPELINE_RUN", "run-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never in a manifest")
    monkeypatch.setenv("HOSTNAME", "launcher")
    for name in ("KFP_POD_NAME", "POD_NAMESPACE", "LONGTAKE_GIT_REVISION"):
        monkeypatch.delenv(name, raising=False)
    return World(tmp_path, api)


def running(api: KubeApi) -> None:
    for node in range(api.job["spec"]["trainer"]["numNodes"]):
        api.pod(node, "Running", running={})


def ends_well(world: World) -> list[Callable[[KubeApi], None]]:
    def complete(api: KubeApi) -> None:
        api.say(0, "step 2")
        world.nodes_write(api)
        api.condition("Complete")

    return [running, lambda api: api.say(0, "step 1"), lambda api: None, complete]


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


def unschedulable(api: KubeApi) -> None:
    for node in (0, 1):
        pod = api.pod(node, "Pending")
        message = "0/12 nodes are available: 12 Insufficient nvidia.com/gpu."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        pod["status"]["conditions"] = [condition]


def waiting(reason: str, message: str = "") -> Callable[[KubeApi], None]:
    return lambda api: api.pod(1, "Pending", waiting={"reason": reason, "message": message}) and None


def ended(code: int, reason: str = "Error", node: int = 0, says: str = "") -> Callable[[KubeApi], None]:
    def step(api: KubeApi) -> None:
        running(api)
        if says:
            api.say(node, "[pretrain@dino] 10/90 steps", says)
        api.pod(node, "Failed", terminated={"exitCode": code, "reason": reason})

    return step


def evicted(api: KubeApi) -> None:
    running(api)
    pod = api.pod(1, "Failed")
    pod["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}


def failed(api: KubeApi) -> None:
    api.pods.clear()  # a job that has failed may take its pods with it
    api.condition("Failed", "jobset failed due to one or more job failures")


LATE = [lambda api: time.sleep(0.1)] * 4
FAILURES = [
    ("no room", [unschedulable, *LATE], ExitCode.NO_ROOM, "no machine has room for node 0, 0/12 nodes are available"),
    ("image", [waiting("ErrImagePull", "not found"), *LATE], ExitCode.BAD_INPUT, "node 1 cannot get its image"),
    ("image, later", [waiting("ImagePullBackOff"), *LATE], ExitCode.BAD_INPUT, "image_pull_secrets"),
    (
        "secret",
        [waiting("CreateContainerConfigError", 'secret "longtake-s3" not found'), *LATE],
        ExitCode.BAD_INPUT,
        'secret "longtake-s3" not found',
    ),
    ("memory", [ended(137, "OOMKilled", node=1)], ExitCode.NO_ROOM, "node 1 ran out of memory, its limit is 64 GiB"),
    (
        "bad input",
        [ended(2, says="pretrain: a batch of 16 cannot be shared")],
        ExitCode.BAD_INPUT,
        "exit code 2: pretrain: a batch of 16 cannot be shared",
    ),
    ("collapse", [ended(3, says="pretrain: the features have collapsed")], ExitCode.STOPPED, "have collapsed"),
    ("crash", [ended(1, says="KeyError: 'x'"), failed], ExitCode.CRASH, "node 0 ended with exit code 1: KeyError: 'x'"),
    (
        "cause before consequence",
        [ended(6, says="lost"), ended(1, node=1, says="ValueError: the cause"), failed],
        ExitCode.CRASH,
        "ValueError: the cause",
    ),
    ("evicted", [evicted, failed], ExitCode.LOST, "node 1 was taken down, The node was low on resource"),
    ("killed", [ended(137), failed], ExitCode.LOST, "node 0 ended with exit code 137"),
    ("unknown", [running, failed], ExitCode.CRASH, "the job failed, jobset failed due to"),
    ("deleted", [running, lambda api: api.jobs.clear()], ExitCode.INTERRUPTED, "somebody deleted the job"),
]


@pytest.mark.parametrize(("steps", "code", "words"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_what_stops_a_job_is_one_clear_line(
    steps: list[Any],
    code: ExitCode,
    words: str,
    world: World,
    api: KubeApi,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.script = list(steps)
    assert world.launch() == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and error.startswith("launch: ")
    assert not (world.folder / "out").exists() or not list((world.folder / "out").iterdir())
    assert bool(api.jobs) == (failed in steps), "a job that runs on is deleted; one that failed stays to be looked at"


def test_the_crash_of_another_node_is_shown(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.script = [ended(1, node=1, says="KeyError: 'x'"), failed]
    assert world.launch() == ExitCode.CRASH
    said = capsys.readouterr()
    assert "[node 1] [pretrain@dino] 10/90 steps\n[node 1] KeyError: 'x'\n" in said.out
    assert said.err == "launch: node 1 ended with exit code 1: KeyError: 'x'\n"


def test_a_wait_is_told_and_ends_with_the_trouble(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    def queued(api: KubeApi) -> None:
        api.condition("Suspended", "suspended by a queue")

    def resumed(api: KubeApi) -> None:
        api.job["status"]["conditions"].clear()

    api.script = [queued, resumed, unschedulable, lambda api: None, *ends_well(world)]
    assert world.launch(unschedulable_s=60) == ExitCode.OK
    said = capsys.readouterr().out
    assert "waits in a queue" in said and "Insufficient nvidia.com/gpu" in said


def test_a_node_that_starts_anew_is_not_the_end(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    def anew(api: KubeApi) -> None:
        api.pod(0, "Running", again="b", running={})
        api.say(0, "going on from the checkpoint", again="b")

    def complete(api: KubeApi) -> None:
        world.nodes_write(api)
        api.condition("Complete")

    api.script = [ended(6, says="lost one"), anew, lambda api: None, complete]
    assert world.launch() == ExitCode.OK
    said = capsys.readouterr().out
    assert said.count("lost one") >= 1 and said.count("going on from the checkpoint") == 1


def test_a_job_that_takes_too_long_is_ended(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.script = [running]
    assert world.launch(timeout_h=0.5 / 3600) == ExitCode.BAD_INPUT
    assert "raise timeout_h" in capsys.readouterr().err and not api.jobs


FORBIDDEN = status(403, "Forbidden", 'trainjobs.trainer.kubeflow.org is forbidden: User "x" cannot create')
NO_RUNTIME = status(403, "Forbidden", 'admission webhook "validator" denied the request: runtime not found')
OLD = status(400, "BadRequest", 'strict decoding error: unknown field "spec.runtimePatches"')
AWAY = status(503, "ServiceUnavailable", "apiserver is shutting down")
REFUSALS = [
    ([("POST trainjobs", 403, FORBIDDEN)], "no right to create", "pipelines.trainJobs.enabled=true"),
    ([("GET pods?", 403, FORBIDDEN), ("GET pods", 403, FORBIDDEN)], "no right to", "the service account"),
    ([("POST trainjobs", 403, NO_RUNTIME)], "runtime not found", "Kubernetes refused to create"),
    ([("POST trainjobs", 400, OLD)], "older than 2.2", "upgrade"),
    ([("POST trainjobs", 422, status(422, "Invalid", "quota exceeded"))], "quota exceeded", "refused to create"),
]


@pytest.mark.parametrize(("refusals", "words", "do"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_a_refusal_says_what_to_do(
    refusals: list[Any], words: str, do: str, world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refusals = list(refusals)
    assert world.launch() == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and do in error and error.count("\n") == 1


def test_a_cluster_without_trainer_says_so(world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.installed = False
    assert world.launch() == ExitCode.BAD_INPUT
    assert "this cluster has no TrainJobs" in capsys.readouterr().err


def test_an_api_that_stutters_costs_nothing(world: World, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.common.launch.kube.AGAIN_AFTER_S", 0.01)
    api.refusals = [("POST trainjobs", 503, AWAY), ("GET trainjobs", 429, AWAY), ("GET pods", 500, AWAY)]
    api.refusals += [(f"GET pods/{name}", 500, AWAY) for name in ("pretrain",)]  # a log that does not come
    api.script = ends_well(world)
    assert world.launch(api_away_s=30) == ExitCode.OK


def test_an_api_that_is_away_leaves_the_job_to_the_next_try(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.script = [running, lambda api: api.refusals.extend([("GET", 503, AWAY)] * 1000)]
    assert world.launch() == ExitCode.UNREACHABLE
    assert "the Kubernetes API does not answer, 503" in capsys.readouterr().err
    assert api.jobs and not [asked for asked in api.asked if asked.startswith("DELETE")]


def test_no_cluster_at_all(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.close()
    assert world.launch() == ExitCode.UNREACHABLE
    assert "does not answer" in capsys.readouterr().err
    monkeypatch.setenv("KUBECONFIG", str(world.folder / "nothing"))
    assert world.launch() == ExitCode.BAD_INPUT
    assert "several nodes need a Kubernetes cluster" in capsys.readouterr().err


def test_what_cannot_work_is_refused_before_anything_is_asked(
    world: World, api: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.launch(cache_pvc=None) == ExitCode.BAD_INPUT
    assert "a cache that all of them see" in capsys.readouterr().err
    world.stage[world.stage.index("--frames") + 1] = "/local/frames"
    assert world.launch() == ExitCode.BAD_INPUT
    assert "the nodes cannot read '--frames', it is in no S3 store: /local/frames" in capsys.readouterr().err
    world.stage[2] = "components.common.errors"
    assert world.launch() == ExitCode.BAD_INPUT
    assert "not a stage" in capsys.readouterr().err
    assert world.launch(memory_gb=3) == ExitCode.BAD_INPUT
    assert "did you mean 'memory_gib'" in capsys.readouterr().err
    assert main(["--nodes", "2", "--", "python", "-m", "x"]) == ExitCode.BAD_INPUT
    assert "several nodes need --settings" in capsys.readouterr().err
    assert not api.asked


def test_a_cancelled_launcher_takes_its_job_along(world: World, api: KubeApi) -> None:
    api.on_create = running
    command = [sys.executable, "-m", "components.common.launch", *world.arguments()]
    launcher = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not [asked for asked in api.asked if asked.startswith("GET pods?") or asked == "GET pods"]:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == ExitCode.INTERRUPTED and "interrupted" in error and error.count("\n") == 1
    assert not api.jobs
