"""The command lines of `pipelines.runs` and `pipelines.submit`, against servers on loopback."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.common.errors import StageError
from pipelines import runs
from pipelines.submit import spec
from pipelines.submit.overrides import check_changes, split
from pipelines.submit.submit import again
from pipelines.workspace import ROOT, make_workspace, merged_params
from tests.pipelines.kfp_server import pod_name
from tests.pipelines.test_submit_preflight import CPU, plan_of


@pytest.fixture
def flags(kfp, cluster, tmp_path):
    return ["--host", kfp.url, "--kubeconfig", str(cluster.kubeconfig(tmp_path))]


@pytest.fixture
def run_id(kfp, documents):
    kfp.frames = [{"make": "RUNNING"}] * 500
    return kfp.add_run(documents)


def test_runs_are_listed(kfp, documents, flags, capsys):
    first, second = kfp.add_run(documents), kfp.add_run(documents, state="FAILED")
    assert runs.main(["list", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[second, "failed"], [first, "pending"]]


def test_a_run_is_cancelled_once(kfp, run_id, flags, capsys):
    assert runs.main(["cancel", run_id, *flags]) == 0
    assert len(kfp.asked("POST", ":terminate")) == 1
    assert runs.main(["watch", run_id, *flags]) == 130
    assert runs.main(["cancel", run_id, *flags]) == 0
    assert "has ended already: canceled" in capsys.readouterr().out
    assert len(kfp.asked("POST", ":terminate")) == 1


def test_the_beginning_of_an_id_is_enough_if_it_is_one_runs(kfp, documents, run_id, flags, capsys):
    kfp.add_run(documents)
    short = run_id[:30]
    assert runs.main(["cancel", short, *flags]) == 2
    assert "2 runs begin with" in capsys.readouterr().err
    assert runs.main(["cancel", "ffff", *flags]) == 2
    assert "no run begins with 'ffff' (python -m pipelines.runs list)" in capsys.readouterr().err
    kfp.all_runs = {run_id: kfp.all_runs[run_id]}
    assert runs.main(["cancel", short, *flags]) == 0


def test_a_log_is_asked_for_by_the_tasks_name(kfp, cluster, run_id, flags, capsys):
    cluster.logs[pod_name(run_id, "make")] = "one\ntwo\nthree\n"
    assert runs.main(["logs", run_id, "download@sample", "--lines", "2", *flags]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert runs.main(["logs", run_id, "download@sampel", *flags]) == 2
    assert "no task 'download@sampel', did you mean 'download@sample'?" in capsys.readouterr().err


def test_a_failed_run_ends_with_reason_log_and_exit_code(kfp, cluster, documents, flags, capsys):
    kfp.frames, kfp.final = [{}, {"make": "FAILED"}], "FAILED"
    run_id = kfp.add_run(documents)
    cluster.logs[pod_name(run_id, "make")] = "download: no such bucket\n"
    assert runs.main(["watch", run_id, *flags]) == 1
    said = capsys.readouterr().out
    assert "download@sample failed\n  | download: no such bucket\n" in said
    assert said.splitlines()[-1] == "failed after 1:00: 0 of 4 done, 1 failed, 3 skipped"


def test_no_host_and_no_server_are_one_line(monkeypatch, capsys, cluster):
    monkeypatch.delenv("LONGTAKE_KFP_HOST", raising=False)
    assert runs.main(["list"]) == 2
    assert capsys.readouterr().err == "runs: no server is named (--host URL, or set LONGTAKE_KFP_HOST)\n"
    cluster.close()
    assert runs.main(["list", "--host", cluster.url]) not in (0, 1, 2)
    assert "no answer from Kubeflow Pipelines" in capsys.readouterr().err


def start(run_id, flags, **more):
    return subprocess.Popen([sys.executable, "-m", "pipelines.runs", "watch", run_id, *flags], cwd=ROOT, **more)


def test_ctrl_c_leaves_the_run_going_and_says_how_to_cancel(kfp, run_id, flags):
    watching = start(run_id, flags, stdout=subprocess.PIPE, text=True)
    assert "running" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    said = watching.stdout.read()
    assert watching.wait(30) == 130
    assert "The run goes on." in said
    assert f"cancel it   python -m pipelines.runs cancel {run_id} --host {kfp.url}" in said
    assert not kfp.asked("POST", ":terminate")


def test_on_a_terminal_the_table_is_redrawn(kfp, documents, flags):
    kfp.frames = [{}, {"make": "RUNNING"}, {"make": "SUCCEEDED", "judge": "CACHED"}]
    main, sub = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "PYTHONIOENCODING": "utf-8"}
    watching = start(kfp.add_run(documents), flags, stdout=sub, env=env)
    os.close(sub)
    seen = b""
    while chunk := _read(main):
        seen += chunk
    assert watching.wait(30) == 0
    text = seen.decode()
    assert "\x1b[32m ✓\x1b[0m download@sample" in text
    assert "\x1b[32m ↺\x1b[0m judge" in text
    assert re.search(r"\x1b\[5F", text)


def _read(main):
    try:
        return os.read(main, 65536)
    except OSError:  # the other side has closed
        return b""


def test_help_answers_at_once():
    for module in ("pipelines.submit", "pipelines.runs"):
        script = (
            "import runpy, sys; sys.argv = ['x', '--help']\n"
            "try: runpy.run_module('" + module + "', run_name='__main__')\n"
            "except SystemExit: pass\n"
            "heavy = {'kfp', 'kfp_server_api', 'kubernetes', 'dvc', 'mlflow', 'torch', 'boto3'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "download.clipz.fps=3",
            r"nothing of the pipeline depends on 'download\.clipz\.fps', did you mean 'download\.clips'",
        ),
        ("method=[dino]", "did you mean 'methods'"),
    ],
)
def test_a_change_that_nothing_sees_is_refused(change, words):
    with pytest.raises(StageError, match=words):
        check_changes(plan_of(**{"download@clips": CPU}), [change])


@pytest.mark.parametrize("change", ["download.clips.fps=3", "download={clips: {fps: 3}}", "methods=[dino]"])
def test_a_change_that_something_sees_is_taken(change):
    check_changes(plan_of(**{"download@clips": CPU}), [change])


def test_values_that_a_run_changes_leave_the_version_as_it_is(documents):
    changed = [{**documents[0], "root": {**documents[0]["root"]}}, *documents[1:]]
    inputs = dict(documents[0]["root"]["inputDefinitions"]["parameters"])
    inputs["seed"] = {**inputs["seed"], "defaultValue": 7.0}
    changed[0]["root"]["inputDefinitions"] = {"parameters": inputs}
    values = {"seed": 7, "git_revision": "abc", "download__sample": {"clips": 4}}
    base = {"seed": 0, "download__sample": {"clips": 4}}
    found, overrides = split(changed, values, base)
    assert overrides == {"seed": 7}
    assert spec.content_hash(found) == spec.content_hash(documents)


def test_the_command_to_go_on_with_has_the_flags_that_were_given():
    given = dict.fromkeys(("host", "namespace", "token_file", "ca_file", "kubeconfig", "context", "cluster"))
    given |= {"host": "http://h", "token_file": Path("my token"), "recipe": "r", "set": ["a.b=1", "c={d: 2}"]}
    args = SimpleNamespace(**given)
    assert again("watch", "id", args) == "python -m pipelines.runs watch id --host http://h --token-file 'my token'"
    assert again("pull", "id", args).endswith(" --recipe r --set a.b=1 --set 'c={d: 2}'")


@pytest.mark.slow
def test_a_submission_from_the_command_line_to_the_end_of_its_run(kfp, flags, tmp_path):
    project = make_workspace(tmp_path / "project", merged_params(None, []))  # of its own, with a runs/ of its own
    recipe = tmp_path / "small.yaml"
    recipe.write_text("methods: [random]\ntasks: [knn]\ndatasets: {sample: raw, knn: benchmarks}\n"
                      "promote: {rank_by: [knn], must_beat: {}, must_not_lose: {}}\n")  # fmt: skip
    kfp.frames = [{}, {"download-sample": "RUNNING"}, {"download-sample": "SUCCEEDED"}]
    command = [sys.executable, "-m", "pipelines.submit", "--recipe", str(recipe), *flags]
    env = {**os.environ, "MLFLOW_TRACKING_URI": "", "LONGTAKE_GIT_REVISION": "abc"}

    def submit(*more):
        return subprocess.run([*command, *more], cwd=project, env=env, capture_output=True, text=True)

    refused = submit("--set", "evaluate.knn.primary_kk=3")
    assert refused.returncode == 2, refused.stderr
    assert "unknown key 'primary_kk', did you mean 'primary_k'?" in refused.stderr
    assert not kfp.asked("POST", ".*")
    done = submit("--set", "seed=3", "--watch")
    assert done.returncode == 0, done.stderr
    assert f"--recipe {recipe} --set seed=3" in done.stdout.splitlines()[-1]
    assert "images.data by digest" in done.stderr
    assert re.search(r"download@sample +succeeded", done.stdout)
    (run,) = kfp.all_runs.values()
    assert run["runtime_config"]["parameters"] == {"seed": 3}
    again = submit("--set", "seed=4")
    assert "(there already)" in again.stdout, again.stdout + again.stderr
    assert len(kfp.versions) == 1
    dry = submit("--dry-run", "--no-cache")
    assert dry.stdout.endswith("nothing was submitted\n")
    assert len(kfp.all_runs) == 2
