"""One clear line for whatever stops a job of several nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from components.common.errors import ExitCode
from tests.common.kube_api import KubeApi
from tests.common.launch.trainjob_world import World, ends_well, running


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
