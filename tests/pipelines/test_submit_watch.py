"""Progress of a run, as Kubeflow tells it."""

import io
import re
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.common.errors import ExitCode, StageError
from pipelines.submit import spec
from pipelines.submit.screen import Screen, duration
from pipelines.submit.state import read_state
from pipelines.submit.watch import ending, outcome, task_of
from tests.pipelines.kfp_server import pod_name
from tests.pipelines.watched import watch_of


def states(run):
    return {one.task.key: one.state for one in run.tasks}


def test_tasks_are_found_in_every_group_in_the_order_of_work(documents):
    tasks = spec.tasks(documents)
    assert [task.key for task in tasks] == ["make", "use", "judge", "finish"]
    by_key = {task.key: task for task in tasks}
    assert by_key["make"].label == "download@sample"
    assert by_key["use"].looped
    assert not by_key["judge"].looped
    assert by_key["finish"].cleanup
    assert by_key["judge"].outputs == ("metrics",)
    assert spec.inputs(documents) == {"seed": 0, "git_revision": "abc", "download__sample": {"clips": 4}}


def test_nodes_are_folded_into_one_state_a_task(kfp, documents):
    frame = {"make": ["FAILED", "SUCCEEDED"], "use": ("RUNNING", "PENDING", "SUCCEEDED"), "judge": "CACHED"}
    watch = watch_of(kfp, None, documents, [frame, frame])
    run = watch.look()
    assert states(run) == {"make": "succeeded", "use": "running", "judge": "cached", "finish": "waiting"}
    by_key = {one.task.key: one for one in run.tasks}
    assert by_key["make"].attempts == 2
    assert by_key["make"].pods == [pod_name(run.run_id, "make", 0), pod_name(run.run_id, "make", 1)]
    assert by_key["use"].parts == (1, 3)
    assert by_key["judge"].pods == []


def test_a_pod_that_waits_makes_its_task_pending(kfp, documents):
    run = watch_of(kfp, None, documents, [{"make": "PENDING"}, {}]).look()
    assert states(run)["make"] == "pending"


def test_a_task_whose_driver_failed_has_failed_and_shows_the_drivers_log(kfp, cluster, kube, documents):
    watch = watch_of(kfp, kube, documents, [{"make": "DRIVER FAILED"}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    assert states(run)["make"] == "failed"
    (driver,) = run.tasks[0].pods
    cluster.logs[driver] = "KFP driver: no such artifact\n"
    assert watch.failures(run)[1:] == ["download@sample failed", "  | KFP driver: no such artifact"]


def test_what_had_not_begun_when_the_run_ended_was_skipped(kfp, documents):
    watch = watch_of(kfp, None, documents, [{"make": "FAILED"}], final="FAILED")
    run = watch.follow(Screen(io.StringIO()))
    assert states(run) == {"make": "failed", "use": "skipped", "judge": "skipped", "finish": "skipped"}
    assert outcome(run) == ExitCode.CRASH


@pytest.mark.parametrize(("final", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 130)])
def test_the_exit_code_is_the_outcome(kfp, documents, final, code):
    run = watch_of(kfp, None, documents, [{"make": "SUCCEEDED"}], final).follow(Screen(io.StringIO()))
    assert outcome(run) == code
    assert ending(run).startswith(run.state)


def test_without_a_terminal_each_change_is_a_line(kfp, documents):
    out = io.StringIO()
    frames = [{"make": "PENDING"}, {"make": "RUNNING"}, {"make": "RUNNING"}, {"make": "SUCCEEDED", "judge": "CACHED"}]
    watch_of(kfp, None, documents, frames).follow(Screen(out))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [(line[1], line[2]) for line in lines] == [
        ("download@sample", "pending"),
        ("download@sample", "running"),
        ("download@sample", "succeeded"),
        ("use", "skipped"),
        ("judge", "cached"),
        ("finish", "skipped"),
    ]
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_one_table_is_drawn_over_itself(kfp, documents, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    out = io.StringIO()
    frames = [{"make": "RUNNING"}, {"make": "SUCCEEDED"}]
    watch_of(kfp, None, documents, frames).follow(Screen(out, live=True))
    final = _screen(out.getvalue())
    assert len(final) == 5
    assert "1 of 4 done" in final[0]
    assert "download@sample" in final[1]
    assert "succeeded" in final[1]
    assert all(len(line) < 60 for line in final)


def test_a_table_taller_than_the_screen_keeps_what_matters(kfp, documents, monkeypatch):
    monkeypatch.setenv("LINES", "6")
    out = io.StringIO()
    watch = watch_of(kfp, None, documents, [{"make": "SUCCEEDED", "use": ("SUCCEEDED",), "judge": "RUNNING"}, {}])
    Screen(out, live=True).show(watch.look(), {}, 0.0)
    shown = _screen(out.getvalue())
    assert len(shown) == 4
    assert any("judge" in line for line in shown)
    assert "and 2 more" in shown[-1]


def test_a_server_that_is_away_for_a_while_is_waited_for(kfp, documents):
    watch = watch_of(kfp, None, documents, [{"make": "RUNNING"}, {"make": "SUCCEEDED"}])
    kfp.fail("/runs/", 503, times=3)
    out = io.StringIO()
    assert watch.follow(Screen(out)).state == "succeeded"
    assert out.getvalue().count("trying again") == 1


def test_a_server_that_stays_away_ends_the_watch(kfp, documents):
    watch = watch_of(kfp, None, documents, [{"make": "RUNNING"}, {"make": "SUCCEEDED"}])
    kfp.fail("/runs/", 503, times=10_000)
    with pytest.raises(StageError, match="answered 503"):
        watch.follow(Screen(io.StringIO()))


def test_a_run_that_was_deleted_ends_the_watch(kfp, documents):
    watch = watch_of(kfp, None, documents, [{"make": "RUNNING"}])
    kfp.all_runs.clear()
    with pytest.raises(StageError, match="does not have it"):
        watch.follow(Screen(io.StringIO()))


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("longtake-x.root.make.executor", "make"),
        ("longtake-x.root.exit-handler-1.make.executor(2)", "make"),
        ("longtake-x.root.exit-handler-1.make-driver", "make"),
        ('w.root.loop(0:{"a":1.5}).iteration-item(1:2/3).use.executor(0)', "use"),
        ("longtake-x.root", ""),
        ("", ""),
    ],
)
def test_a_pod_knows_its_task_by_the_path_of_its_node(path, task):
    annotations = {"workflows.argoproj.io/node-name": path}
    assert task_of(SimpleNamespace(metadata=SimpleNamespace(annotations=annotations))) == task


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
node = st.fixed_dictionaries(
    {},
    optional={
        "display_name": st.sampled_from(["make", "make-driver", "executor", "executor(0)", "root"]),
        "pod_name": st.sampled_from(["", "w-1", "w-impl-1", "w-2", "w-x"]),
        "state": st.sampled_from(["RUNNING", "FAILED", "SUCCEEDED", "PENDING", "SKIPPED", "", "NEWER"]),
        "start_time": st.sampled_from([None, "2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z"]),
        "child_tasks": st.lists(st.sampled_from([{"pod_name": "w-1"}, {"pod_name": "w-2"}, {}]), max_size=2),
        "outputs": json_values.filter(lambda value: value is None or isinstance(value, dict)),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(st.lists(node, max_size=6), st.sampled_from(["RUNNING", "FAILED", "", "CANCELING"]))
def test_whatever_nodes_the_server_sends_are_folded(documents, nodes, state):
    run = read_state({"run_id": "r", "state": state, "run_details": {"task_details": nodes}}, spec.tasks(documents))
    assert len(run.tasks) == 4
    Screen(io.StringIO(), live=True).show(run, {}, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (3600, "1:00:00"), (-5, "0:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def _screen(text):
    """What a terminal shows after `text`: only the sequences that Screen uses."""
    lines, row = [], 0
    for piece in text.replace("\x1b[0J", "\x00").split("\n"):
        while piece.startswith(("\x1b[", "\x00")):
            if piece[0] == "\x00":
                del lines[row:]
                piece = piece[1:]
                continue
            code, letter, rest = _sequence(piece)
            if letter == "F":
                row -= int(code)
            elif letter != "K":
                break
            piece = rest
        if piece:
            lines[row : row + 1] = [re.sub(r"\x1b\[\d+m", "", piece)]
            row += 1
    return lines


def _sequence(piece):
    found = re.match(r"\x1b\[(\d*)([A-Z])(.*)", piece, re.DOTALL)
    return found.groups() if found else ("", "", "")
