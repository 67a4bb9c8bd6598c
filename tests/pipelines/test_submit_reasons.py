"""Why a task waits or has failed, and the end of its log, as Kubernetes and Kubeflow tell them."""

import io

import pytest

from components.common.errors import ExitCode
from pipelines.submit.screen import Screen
from tests.pipelines.kfp_server import pod_name
from tests.pipelines.kube_server import pod
from tests.pipelines.watched import watch_of

UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available.",
}


def waiting(reason, message="the words of the cluster", init=False):
    status = {"name": "main", "image": "longtake/train:dev", "imageID": "", "ready": False, "restartCount": 0,
              "state": {"waiting": {"reason": reason, "message": message}}}  # fmt: skip
    return {"initContainerStatuses" if init else "containerStatuses": [status]}


def ended(code, reason="Error"):
    status = {"name": "main", "image": "x", "imageID": "x", "ready": False, "restartCount": 0,
              "state": {"terminated": {"exitCode": code, "reason": reason}}}  # fmt: skip
    return {"containerStatuses": [status]}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"conditions": [UNSCHEDULABLE]}, "no node takes it: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu"),
        (waiting("ImagePullBackOff"), "image longtake/train:dev cannot be pulled: the words of the cluster"),
        (waiting("ErrImagePull", init=True), "image longtake/train:dev cannot be pulled: the words of the cluster"),
        (
            waiting("CreateContainerConfigError", 'secret "x" not found'),
            'container cannot be created: secret "x" not found',
        ),
    ],
)
def test_a_note_says_why_a_task_waits(kfp, cluster, kube, documents, status, words):
    watch = watch_of(kfp, kube, documents, [{"make": "PENDING"}, {}])
    cluster.add("pods", **pod("p", "make", watch.run_id, **status))
    cluster.add("pods", **pod("of-another-run", "judge", "else", conditions=[UNSCHEDULABLE]))
    assert watch.notes(watch.look()) == {"make": words}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended(137, "OOMKilled"), "out of memory, its limit is 64Gi (raise memory_gib"),
        (ended(137), "killed (exit 137)"),
        (ended(2), "exit 2: wrong input or parameters"),
        (ended(3), "exit 3: training stopped itself"),
        (ended(4), "exit 4: no room"),
        (ended(143), "exit 143: terminated by the cluster"),
        (ended(77), "exit 77: not one of the pipeline's own"),
        ({"reason": "DeadlineExceeded", "message": "active longer"}, "ran longer than its timeout (timeout_h"),
        (
            {"reason": "Evicted", "message": "low on ephemeral-storage"},
            "evicted from its node: low on ephemeral-storage",
        ),
        (waiting("ErrImageNeverPull"), "image longtake/train:dev cannot be pulled"),
    ],
)
def test_a_failed_task_says_why(kfp, cluster, kube, documents, status, words):
    watch = watch_of(kfp, kube, documents, [{"make": "FAILED"}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    cluster.add("pods", **pod(pod_name(run.run_id, "make"), "make", run.run_id, phase="Failed", **status))
    first = watch.failures(run)[1]
    assert first.startswith("download@sample failed: ")
    assert words in first


def test_every_exit_code_of_a_stage_has_words():
    from pipelines.submit.trouble import EXITS

    assert {int(code) for code in ExitCode} - {0} <= set(EXITS)


def test_the_end_of_the_last_attempts_log_is_shown(kfp, cluster, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"make": ["FAILED", "FAILED"]}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    cluster.logs[pod_name(run.run_id, "make", 1)] = "".join(f"line {n}\n" for n in range(80))
    lines = watch.failures(run)
    assert lines[1] == "download@sample failed after 2 attempts"
    assert lines[2:] == [f"  | line {n}" for n in range(30, 80)]


def test_a_log_cannot_steer_the_terminal(kfp, cluster, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"make": "FAILED"}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    cluster.logs[pod_name(run.run_id, "make")] = "\x1b[31mred\x1b[0m\x1b]0;title\x07\tend\n"
    assert watch.log(run.tasks[0], 5) == ["red]0;title\tend"]


def test_the_log_comes_from_the_server_where_the_pod_is_gone(kfp, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"make": "FAILED"}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    kfp.logs[pod_name(run.run_id, "make")] = "from the archive\n"
    assert watch.log(run.tasks[0], 10) == ["from the archive"]
    kfp.logs.clear()
    assert "is gone" in watch.log(run.tasks[0], 10)[0]


def test_of_a_fan_out_the_log_of_a_failed_part_is_shown(kfp, cluster, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"use": ("SUCCEEDED", "FAILED", "SUCCEEDED")}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    cluster.logs[pod_name(run.run_id, "use", 0, 1)] = "part two\n"
    use = next(one for one in run.tasks if one.task.key == "use")
    assert use.parts == (3, 3)
    assert watch.log(use, 10) == ["part two"]


def test_without_rights_on_pods_a_watch_goes_on(kfp, cluster, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"make": "PENDING"}, {"make": "FAILED"}], final="FAILED")
    cluster.denied |= {"list pods", "get pods/log"}
    run = watch.follow(Screen(io.StringIO()))
    assert watch.failures(run)[1] == "download@sample failed"
