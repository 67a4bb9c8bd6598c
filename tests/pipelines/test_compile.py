"""The compiled pipeline against dvc.yaml, read independently of the compiler, and against a golden file."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.common.errors import StageError
from components.common.launch.settings import NodeSettings
from pipelines.cluster import Cluster, Retry
from pipelines.compile import compile_plan, documents, inputs, main, plan
from pipelines.dag import read_dag
from pipelines.revision import Code, code_of
from pipelines.wiring import describe, input_name, task_name
from tests.pipelines.tiny import ROOT, tiny_workspace

GOLDEN = Path(__file__).with_name("golden")
TINIER = {
    "methods": ["random", "dino"],
    "tasks": ["vos"],
    "datasets": {"sample": "raw", "vos": "benchmarks"},
    "extract_frames": {"sample": {"parts": 2}},
}
HOUR_S = 3600
SCRIPT = """
import sys
from pathlib import Path
from pipelines.cluster import Cluster
from pipelines.compile import compile_plan, plan
print(compile_plan(plan(Path(sys.argv[1]), Cluster.read())))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_workspace(tmp_path_factory.mktemp("project"), **TINIER)


@pytest.fixture(scope="module")
def made(folder):
    return plan(folder, Cluster.read())


@pytest.fixture(scope="module")
def compiled(made):
    return documents(compile_plan(made))


def body(pipeline):
    """The tasks inside the exit handler, by their display name."""
    (handler,) = (name for name in pipeline["components"] if name.startswith("comp-exit-handler"))
    return {task["taskInfo"]["name"]: task for task in pipeline["components"][handler]["dag"]["tasks"].values()}


def executors(compiled):
    pipeline, platform = compiled
    return {
        name: (spec["container"], platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name])
        for name, spec in pipeline["deploymentSpec"]["executors"].items()
    }


def all_tasks(pipeline):
    dags = [pipeline["root"], *pipeline["components"].values()]
    return [task for holder in dags for task in holder.get("dag", {}).get("tasks", {}).values()]


def test_nodes_and_edges_are_exactly_those_of_dvc(folder, compiled):
    dag, tasks = read_dag(folder), body(compiled[0])
    assert set(tasks) == {node.name for node in dag.nodes}
    names = {task_name(node.name): node.name for node in dag.nodes}
    edges = {
        (names[source["taskOutputArtifact"]["producerTask"]], name)
        for name, task in tasks.items()
        for source in task["inputs"].get("artifacts", {}).values()
    }
    assert edges == dag.edges
    waits = {(names[before], name) for name, task in tasks.items() for before in task.get("dependentTasks", [])}
    assert waits == dag.edges


def test_the_golden_file(made, compiled):
    """Everything at once: whoever changes what is compiled sees it in the diff of the golden file.

    LONGTAKE_GOLDEN=write renews it.
    """
    fixed = {name: Code("0" * 40, "1" * 32) for name in made.code}
    text = compile_plan(dataclasses.replace(made, code=fixed, revision="2" * 40))
    file = GOLDEN / "pipeline.yaml"
    if os.environ.get("LONGTAKE_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert documents(text) == documents(file.read_text(encoding="utf-8"))
    assert len(list(yaml.safe_load_all(text))) == 2


def test_artifacts_carry_types_that_the_pages_show(compiled):
    pipeline = compiled[0]
    outputs = {
        (name, flag): artifact["artifactType"]["schemaTitle"]
        for name, component in pipeline["components"].items()
        for flag, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    assert outputs["comp-evaluate-dino-vos", "metrics"] == "system.Metrics"
    assert outputs["comp-pretrain-dino", "model"] == "system.Model"
    assert outputs["comp-compare", "page"] == "system.HTML"
    assert outputs["comp-extract-frames-sample", "frames"] == "system.Dataset"


def test_parameters_are_inputs_of_the_pipeline(folder, made, compiled):
    params = yaml.safe_load((folder / "params.yaml").read_text())
    declared = compiled[0]["root"]["inputDefinitions"]["parameters"]
    assert declared["pretrain__dino"]["defaultValue"] == params["pretrain"]["dino"]
    assert declared["seed"]["defaultValue"] == params["seed"]
    assert set(declared) == set(inputs(made))
    for node in made.dag.nodes:
        given = body(compiled[0])[node.name]["inputs"]["parameters"]
        assert {input_name(path) for path in node.params} <= set(given)
        container = executors(compiled).get(f"exec-{task_name(node.name)}")
        for path in node.params if container else ():
            assert f"{path}={{{{$.inputs.parameters['{input_name(path)}']}}}}" in container[0]["args"]


def test_every_task_is_retried_within_the_window_and_ends_in_time(made, compiled):
    told = made.cluster.retry
    assert told.window_s > max(node.needs.timeout_h for node in made.dag.nodes) * HOUR_S
    with_containers = [
        task for task in all_tasks(compiled[0]) if f"exec{task['componentRef']['name'][4:]}" in executors(compiled)
    ]
    assert len(with_containers) == len(executors(compiled))
    for task in with_containers:
        assert task["retryPolicy"]["backoffMaxDuration"] == f"{told.window_s}s"
        assert task["retryPolicy"]["maxRetryCount"] == told.attempts
    for _, kubernetes in executors(compiled).values():
        assert int(kubernetes["activeDeadlineSeconds"]) >= HOUR_S


def test_only_what_may_be_repeated_is_cached(made, compiled):
    for name, task in body(compiled[0]).items():
        node = made.dag.node(name)
        if made.parts(node) == 1:
            assert task["cachingOptions"].get("enableCache", False) is (
                node.stage not in ("pretrain", "compare", "promote")
            )
    assert compiled[0]["root"]["dag"]["tasks"]["finish"]["cachingOptions"].get("enableCache", False) is False


def test_pods_are_not_root_and_hold_no_secret(made, compiled):
    for container, kubernetes in executors(compiled).values():
        assert kubernetes["securityContext"] == {"runAsUser": "10001", "runAsGroup": "0", "runAsNonRoot": True}
        assert kubernetes["secretAsEnv"][0]["secretName"] == "longtake-s3"
        assert kubernetes["configMapAsEnv"][0]["configMapName"] == "longtake-env"
        assert kubernetes["pvcMount"][0]["mountPath"] == "/cache"
        assert not container.get("env")


def test_devices_memory_and_shm_come_from_meta(made, compiled):
    container, kubernetes = executors(compiled)["exec-pretrain-dino"]
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "1"
    assert container["resources"]["resourceMemoryLimit"] == "65536Mi"
    assert kubernetes["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "16384Mi"}
    ]
    assert kubernetes["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "accelerator" not in executors(compiled)["exec-download-sample"][0]["resources"]
    without = compile_plan(dataclasses.replace(made, cluster=made.cluster.model_copy(update={"gpus": False})))
    assert "accelerator" not in without


def test_several_devices_and_several_nodes_start_through_the_launcher(folder, tmp_path):
    """One pod runs all processes of one node; for more it is a small one that watches a TrainJob."""
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    text = (project / "dvc.yaml").read_text()

    def pretrain(meta):
        (project / "dvc.yaml").write_text(text.replace("shm_gib: 16, gpus: 1, nodes: 1", meta))
        pair = documents(compile_plan(plan(project, Cluster.read())))
        return executors(pair)["exec-pretrain-dino"]

    container, kubernetes = pretrain("shm_gib: 16, gpus: 8, nodes: 1")
    words = ["python", "-m", "components.common.launch", "--nodes", "1", "--gpus", "8"]
    assert container["command"] == [*words, "--", "python", "-m", "components.pretrain"]
    assert container["resources"]["accelerator"]["resourceCount"] == "8"
    assert kubernetes["emptyDirMounts"]

    container, kubernetes = pretrain("shm_gib: 16, gpus: 8, nodes: 2")
    assert container["command"][3:7] == ["--nodes", "2", "--gpus", "8"]
    settings = NodeSettings.model_validate_json(container["command"][container["command"].index("--settings") + 1])
    assert (settings.memory_gib, settings.shm_gib, settings.accelerator) == (64, 16, "nvidia.com/gpu")
    assert (settings.secret, settings.cache_pvc) == ("longtake-s3", "longtake-cache")
    assert "accelerator" not in container["resources"]
    assert (container["resources"]["resourceCpuLimit"], container["resources"]["resourceMemoryLimit"]) == (
        "1",
        "2048Mi",
    )
    assert "emptyDirMounts" not in kubernetes


def test_extraction_fans_out_and_comes_together(compiled):
    component = compiled[0]["components"]["comp-extract-frames-sample"]["dag"]["tasks"]
    (loop,) = (task for task in component.values() if "parameterIterator" in task)
    assert yaml.safe_load(loop["parameterIterator"]["items"]["raw"]) == ["1/2", "2/2"]
    assert loop["iteratorPolicy"]["parallelismLimit"] == 16
    merge = component["extract-frames-sample-merge"]
    assert merge["inputs"]["artifacts"]["merge"]["taskOutputArtifact"]["producerTask"].startswith("for-loop")
    args = executors(compiled)["exec-extract-frames-sample-part"][0]["args"]
    assert args[args.index("--part") + 1] == "{{$.inputs.parameters['part']}}"


def test_the_same_project_compiles_to_the_same_bytes_in_every_process(folder, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    texts = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_code_is_known_by_what_it_holds(folder, made):
    """Kubeflow's cache sees parameters only: another line of code must be another parameter, another page must not."""
    before = {node.name: code_of(node, folder) for node in made.dag.nodes}
    (folder / "README.md").write_text("more")
    assert {node.name: code_of(node, folder) for node in made.dag.nodes} == before
    file = folder / "components" / "index" / "build.py"
    text = file.read_text()
    file.write_text(text + "\n# changed\n")
    after = {node.name: code_of(node, folder) for node in made.dag.nodes}
    file.write_text(text)
    assert {name for name in after if after[name] != before[name]} == {"index@sample"}
    assert len(before["index@sample"].revision) in (40, len("unknown"))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "meta: {image: data, cpu: 4, memory_gib: 8,",
            "meta: {cpu: 4, memory_gib: 8,",
            "missing key 'image': dvc.yaml, download@knn, meta",
        ),
        (
            "{image: data, cpu: 4, memory_gib: 8,",
            "{image: dato, cpu: 4, memory_gib: 8,",
            "no image 'dato' in the cluster's settings, did you mean 'data'?",
        ),
        (
            "memory_gib: 8, timeout_h: 72",
            "memory_gb: 8, timeout_h: 72",
            "unknown key 'memory_gb', did you mean 'memory_gib'?",
        ),
        ("shm_gib: 16, gpus: 1", "shm_gib: 64, gpus: 1", "must be smaller"),
        ("accelerator: nvidia.com/gpu,\n", "", "gpus need an accelerator"),
        (
            "deps: [components/common, components/compare, metrics",
            "deps: [components/common, components/compare, notes, metrics",
            "'notes' is a dependency of 'compare' that no stage makes",
        ),
        (
            "deps: [components/common, components/download]",
            "deps: [components/common, components/download, report]",
            "stages wait for each other in a cycle: compare, download@",
        ),
        (
            "--metrics metrics --models models --decision",
            "--metrics metrics --model models --decision",
            "stage 'promote' has no '--model'",
        ),
        (
            "cmd: python -m components.promote",
            "cmd: nice python -m components.promote",
            "the command of 'promote' is not 'python -m components.promote --flag value ...'",
        ),
        (
            "outs: [promotion/decision.json]",
            "outs: [promotion/other.json]",
            "outs and command of 'promote' name different paths",
        ),
        ("params: [seed, promote]", "params: [seed, promoto]", "no parameter 'promoto', which 'promote' depends on"),
    ],
)
def test_what_is_wrong_with_the_dag_is_said(folder, tmp_path, old, new, line):
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    text = (project / "dvc.yaml").read_text()
    assert old in text
    (project / "dvc.yaml").write_text(text.replace(old, new))
    with pytest.raises(StageError) as error:
        compile_plan(plan(project, Cluster.read()))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_refuses_what_it_does_not_know(tmp_path, capsys):
    assert main(["--recipe", "absent", "--out", str(tmp_path / "p.yaml")]) == 2
    assert "no recipe 'absent'" in capsys.readouterr().err
    (tmp_path / "cluster.yaml").write_text("namespaces: x\n")
    assert main(["--cluster", str(tmp_path / "cluster.yaml"), "--out", str(tmp_path / "p.yaml")]) == 2
    assert "unknown key 'namespaces', did you mean 'namespace'?" in capsys.readouterr().err
    assert not (tmp_path / "p.yaml").exists()


def test_a_cluster_lays_its_values_over_the_defaults(tmp_path):
    (tmp_path / "cluster.yaml").write_text(
        "namespace: lab\nretry: {attempts: 5}\ngpu_pool: {node_selector: {pool: a100}, tolerations: []}\n"
    )
    cluster = Cluster.read(tmp_path / "cluster.yaml")
    assert (cluster.namespace, cluster.service_account) == ("lab", Cluster.read().service_account)
    assert cluster.retry == Retry(attempts=5)
    assert (cluster.gpu_pool.node_selector, cluster.gpu_pool.tolerations) == ({"pool": "a100"}, [])
    (tmp_path / "cluster.yaml").write_text("run_as_user: 0\n")
    with pytest.raises(StageError, match="'run_as_user' = 0: input should be greater than 0"):
        Cluster.read(tmp_path / "cluster.yaml")


def test_a_stage_that_does_not_describe_itself_is_named(tmp_path):
    with pytest.raises(StageError, match="stage 'absent' does not describe itself"):
        describe("absent", tmp_path)
