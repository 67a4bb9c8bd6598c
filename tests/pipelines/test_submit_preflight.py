"""What a cluster must have before a run is submitted, looked up in a Kubernetes API by the real client."""

from decimal import Decimal
from types import SimpleNamespace

import pytest

from components.common.errors import StageError
from pipelines.cluster import Cluster, Toleration
from pipelines.dag import Dag, Node
from pipelines.submit import preflight
from pipelines.submit.capacity import amounts, check_nodes, check_quotas, read_machines, tolerates
from tests.pipelines.kube_server import pod

CPU = {"image": "data", "cpu": 4, "memory_gib": 8, "timeout_h": 1}
GPU = {**CPU, "image": "train", "cpu": 16, "memory_gib": 64, "gpus": 1, "accelerator": "nvidia.com/gpu"}
DIGESTS = {"data": "r/data@sha256:" + "a" * 64, "train": "r/train@sha256:" + "b" * 64}


def plan_of(params=None, cluster=None, **meta):
    """A plan of nodes with `meta`; only what the preflight reads."""
    nodes = tuple(
        Node(name, "", "", (), (), ("download.clips",) if name.startswith("download") else (), needs)
        for name, needs in (meta or {"download@clips": CPU, "pretrain@dino": GPU}).items()
    )
    params = params or {"download": {"clips": {"source": "procedural"}}}
    cluster = cluster or Cluster.read().model_copy(update={"images": DIGESTS})
    return SimpleNamespace(dag=Dag(nodes, frozenset()), params=params, cluster=cluster)


def texts(found):
    return [f"{one.level}: {one}" for one in found]


def test_a_ready_cluster_passes(kube, capsys):
    preflight.require(plan_of(), kube)
    assert capsys.readouterr().out == "preflight   namespace longtake: passed\n"


def test_nothing_is_written_to_the_cluster(cluster, kube):
    preflight.require(plan_of(), kube)
    posts = [request.path for request in cluster.requests if request.method != "GET"]
    assert all("accessreviews" in path for path in posts)


@pytest.mark.parametrize(
    ("resource", "name", "words"),
    [
        ("serviceaccounts", "longtake-pipeline", "no service account 'longtake-pipeline' in namespace 'longtake'"),
        ("secrets", "longtake-s3", "no secret 'longtake-s3'"),
        ("configmaps", "longtake-env", "no config map 'longtake-env'"),
        ("persistentvolumeclaims", "longtake-cache", "no volume claim 'longtake-cache'"),
    ],
)
def test_what_is_missing_is_named(cluster, kube, capsys, resource, name, words):
    del cluster.objects["longtake", resource][name]
    with pytest.raises(StageError, match="1 thing would keep the run from succeeding, nothing submitted"):
        preflight.require(plan_of(), kube)
    assert f"error       {words}" in capsys.readouterr().err


def test_several_things_are_told_at_once(cluster, kube, capsys):
    cluster.objects.clear()
    with pytest.raises(StageError, match="4 things"):
        preflight.require(plan_of(), kube)
    assert capsys.readouterr().err.count("error ") == 4


def test_a_missing_namespace_ends_the_search(cluster, kube):
    cluster.namespaces.clear()
    assert texts(preflight.check_cluster(plan_of(), kube)) == [
        "error: no namespace 'longtake' (--namespace NAME, or helm install creates it, see charts/longtake)"
    ]


def test_a_key_that_pods_expect_is_missed(cluster, kube):
    cluster.add("secrets", "longtake-s3", data={"AWS_ACCESS_KEY_ID": "eA=="})
    assert texts(preflight.check_cluster(plan_of(), kube)) == [
        "warning: secret 'longtake-s3' has no AWS_SECRET_ACCESS_KEY"
    ]


def test_no_secret_value_is_ever_printed(cluster, kube, capsys):
    cluster.add("secrets", "longtake-s3", data={"AWS_ACCESS_KEY_ID": "c2VjcmV0LXZhbHVl"})
    preflight.require(plan_of(), kube)
    said = "".join(capsys.readouterr())
    assert "c2VjcmV0" not in said
    assert "secret-value" not in said


def test_an_image_pull_secret_is_looked_for(kube):
    cluster = Cluster.read().model_copy(update={"images": DIGESTS, "image_pull_secrets": ["registry"]})
    assert "no image pull secret 'registry'" in texts(preflight.check_cluster(plan_of(cluster=cluster), kube))[0]


@pytest.mark.parametrize(
    ("phase", "modes", "words"),
    [
        ("Pending", ["ReadWriteMany"], "warning: volume claim 'longtake-cache' is Pending"),
        ("Lost", ["ReadWriteMany"], "error: volume claim 'longtake-cache' has lost its volume"),
        ("Bound", ["ReadWriteOnce"], "warning: volume claim 'longtake-cache' is for one node at a time"),
    ],
)
def test_the_state_of_the_cache_is_judged(cluster, kube, phase, modes, words):
    claim = {"spec": {"accessModes": modes}, "status": {"phase": phase}}
    cluster.add("persistentvolumeclaims", "longtake-cache", **claim)
    assert texts(preflight.check_cluster(plan_of(), kube))[0].startswith(words)


def test_images_that_can_move_are_warned_of(kube):
    found = texts(preflight.check_images(Cluster.read()))
    assert found[0].startswith(
        "warning: image longtake/data:dev is named by a tag that can move (images.data by digest"
    )
    assert len(found) == 2
    assert not list(preflight.check_images(Cluster.read().model_copy(update={"images": DIGESTS})))


@pytest.mark.parametrize(
    "entry", [{"source": "local", "path": "films"}, {"source": "list", "path": "/home/me/films.txt"}]
)
def test_a_folder_of_this_machine_is_no_source_for_a_pod(entry):
    made = plan_of(params={"download": {"clips": entry}})
    (found,) = texts(preflight.check_sources(made))
    assert found.startswith(f"error: download@clips reads {entry['path']}, which no pod can see")


def test_without_a_cluster_it_says_so_and_goes_on(capsys):
    preflight.require(plan_of(), None)
    assert "it was not checked" in capsys.readouterr().err


def test_rights_are_asked_for(cluster, kube):
    cluster.denied |= {"get pods/log"}
    (found,) = texts(preflight.check_cluster(plan_of(), kube))
    assert found == "warning: you may not read pods/log in 'longtake': no logs of a failed task will be shown"
    cluster.denied = {"create trainjobs"}
    several = plan_of(**{"pretrain@dino": GPU})
    assert not preflight.check_cluster(several, kube)
    for name in ("gpu2", "gpu3"):
        cluster.add_node(name, offers={"nvidia.com/gpu": "8"})
    several = plan_of(**{"pretrain@dino": {**GPU, "nodes": 2}})
    (found,) = texts(preflight.check_cluster(several, kube))
    assert found.startswith("error: service account 'longtake-pipeline' may not create TrainJobs")
    cluster.groups.clear()
    (found,) = texts(preflight.check_cluster(several, kube))
    assert found.startswith("error: no Kubeflow Trainer with trainer.kubeflow.org/v1alpha1")


def test_what_may_not_be_read_is_unknown_not_missing(cluster, kube):
    cluster.denied |= {"get namespaces", "get secrets", "list nodes"}
    found = texts(preflight.check_cluster(plan_of(), kube))
    assert all(line.startswith("warning") for line in found)
    assert any("nodes may not be listed" in line for line in found)
    assert any("secret 'longtake-s3' may not be read" in line for line in found)


def needs_of(meta):
    return {name.partition("@")[0]: node.needs for name, node in ((n.name, n) for n in plan_of(**meta).dag.nodes)}


def fit(kube, meta, cluster=None):
    return texts(check_nodes(kube, needs_of({"pretrain@x": meta}), cluster or Cluster.read()))


def test_a_stage_larger_than_every_node_is_an_error(kube):
    (found,) = fit(kube, {**GPU, "memory_gib": 512})
    assert found.startswith("error: pretrain needs 1 node with 16 cpu, 512 GiB of memory, 1 nvidia.com/gpu; 0 of 2")
    assert "at most 128 GiB of memory on one" in found


def test_more_devices_than_one_node_has_are_an_error(kube):
    (found,) = fit(kube, {**GPU, "gpus": 2})
    assert "at most 1 nvidia.com/gpu on one" in found


def test_a_stage_of_two_nodes_needs_two(kube, cluster):
    assert "1 of 2 are large enough" in fit(kube, {**GPU, "nodes": 2})[0]
    cluster.add_node("gpu2", offers={"nvidia.com/gpu": "1"})
    assert not fit(kube, {**GPU, "nodes": 2})


def test_pods_that_run_take_their_share(kube, cluster):
    busy = pod("other", "x", "y", phase="Running", node="gpu")
    busy["spec"]["containers"][0]["resources"] = {"requests": {"nvidia.com/gpu": "1", "cpu": "500m"}}
    cluster.add("pods", namespace="elsewhere", **busy)
    (found,) = fit(kube, GPU)
    assert found.startswith(
        "warning: pretrain has to wait: 16 cpu, 64 GiB of memory, 1 nvidia.com/gpu are free on 0 of 1"
    )
    busy["status"]["phase"] = "Succeeded"
    cluster.add("pods", namespace="elsewhere", **busy)
    assert not fit(kube, GPU)


def test_taints_and_selectors_keep_pods_out(kube, cluster):
    settings = Cluster.read()
    picky = settings.gpu_pool.model_copy(update={"node_selector": {"pool": "h100"}})
    (found,) = fit(kube, GPU, settings.model_copy(update={"gpu_pool": picky}))
    assert found.startswith("error: pretrain: none of 2 ready nodes lets its pods in (check node_selector")
    intolerant = settings.gpu_pool.model_copy(update={"tolerations": []})
    (found,) = fit(kube, GPU, settings.model_copy(update={"gpu_pool": intolerant}))
    assert "0 of 1 are large enough (at most 0 nvidia.com/gpu on one)" in found
    cluster.nodes[1]["metadata"]["labels"] = {"pool": "h100"}
    assert not fit(kube, GPU, settings.model_copy(update={"gpu_pool": picky}))


def test_nodes_that_are_not_ready_or_closed_do_not_count(kube, cluster):
    cluster.nodes.clear()
    cluster.add_node("broken", ready=False)
    cluster.add_node("closed", unschedulable=True)
    assert "none of 0 ready nodes" in fit(kube, CPU)[0]


def test_on_a_cluster_without_devices_stages_run_on_cores(kube, cluster):
    cluster.nodes.pop()
    assert fit(kube, GPU)[0].startswith("error")
    assert not fit(kube, GPU, Cluster.read().model_copy(update={"gpus": False}))


def test_what_a_pod_requests_is_counted_as_the_scheduler_does():
    def container(**requests):
        return SimpleNamespace(resources=SimpleNamespace(requests=requests))

    of_pod = SimpleNamespace(
        spec=SimpleNamespace(
            node_name="n",
            containers=[container(cpu="500m", memory="1Gi"), container(cpu="1")],
            init_containers=[container(cpu="1", memory="3Gi")],
        ),
        status=SimpleNamespace(phase="Running"),
    )
    node = SimpleNamespace(
        metadata=SimpleNamespace(name="n", labels=None),
        spec=SimpleNamespace(taints=None, unschedulable=None),
        status=SimpleNamespace(
            allocatable={"cpu": "4", "memory": "8Gi"}, conditions=[SimpleNamespace(type="Ready", status="True")]
        ),
    )
    (machine,) = read_machines([node], [of_pod])
    assert machine.free == {"cpu": Decimal("2.5"), "memory": Decimal(5 * 2**30)}


@pytest.mark.parametrize(
    ("toleration", "taint", "let_in"),
    [
        (("a", "Exists", None, None), ("a", "v", "NoSchedule"), True),
        (("a", "Exists", None, "NoExecute"), ("a", "v", "NoSchedule"), False),
        (("a", "Equal", "v", "NoSchedule"), ("a", "v", "NoSchedule"), True),
        (("a", "Equal", "w", "NoSchedule"), ("a", "v", "NoSchedule"), False),
        (("b", "Exists", None, None), ("a", "v", "NoSchedule"), False),
        ((None, "Exists", None, None), ("a", "v", "NoExecute"), True),
        (("a", "Equal", None, None), ("a", None, "NoSchedule"), True),
    ],
)
def test_tolerations_follow_kubernetes_rules(toleration, taint, let_in):
    key, operator, value, effect = toleration
    one = Toleration(key=key, operator=operator, value=value, effect=effect)
    assert tolerates(one, SimpleNamespace(key=taint[0], value=taint[1], effect=taint[2])) is let_in


@pytest.mark.parametrize(
    ("hard", "used", "words"),
    [
        ({"requests.cpu": "8"}, {}, "error: pretrain needs 16 cpu, quota 'q' allows 8 cpu (raise requests.cpu"),
        (
            {"limits.memory": "100Gi"},
            {"limits.memory": "90Gi"},
            "warning: pretrain needs 64 GiB of memory, quota 'q' has 10 GiB",
        ),
        ({"requests.nvidia.com/gpu": "0"}, {}, "error: pretrain needs 1 nvidia.com/gpu, quota 'q' allows 0"),
        ({"pods": "3", "requests.cpu": "100"}, {"pods": "3"}, ""),
    ],
)
def test_quotas_are_compared(kube, cluster, hard, used, words):
    cluster.add("resourcequotas", "q", status={"hard": hard, "used": used})
    found = texts(check_quotas(kube, needs_of({"pretrain@x": GPU}), Cluster.read()))
    assert [line.startswith(words) for line in found] == ([True] if words else [])


def test_quantities_are_read_as_kubernetes_writes_them():
    assert amounts({"cpu": "500m", "memory": "2Gi", "d": "3"}) == {
        "cpu": Decimal("0.5"),
        "memory": Decimal(2 * 2**30),
        "d": Decimal(3),
    }


def test_a_cluster_that_is_away_is_said(cluster, kube):
    cluster.close()
    with pytest.raises(StageError, match="no answer from Kubernetes, could not look for the namespace"):
        preflight.require(plan_of(), kube)
