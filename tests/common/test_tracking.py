import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.tracking.journal import Journal, State, follower_lock, is_followed, pending

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import os, sys
from pathlib import Path
from components.common.tracking import Tracker
tracker = Tracker()
with tracker.run(sys.argv[1], uid=sys.argv[1], folder=Path("tracking"), tags={"stage": "pretrain"}):
    tracker.params({"lr": 0.1, "name": "dino"})
    for step in range(1200):
        tracker.metrics({"loss": 1.0 / (step + 1)}, step=step)
    file = Path(sys.argv[1] + ".txt")
    file.write_text("hello")
    tracker.artifact(file, "pictures")
    tracker.pipeline_tag("failed_evaluations", "dino-vos")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
    if sys.argv[2] == "fail":
        raise RuntimeError("out of luck")
"""


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """Creating the tables takes seconds: done once, copied for each test."""
    folder = tmp_path_factory.mktemp("database")
    env = {**os.environ, "LONGTAKE_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    env.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(
        [sys.executable, "-c", "from components.common.tracking import store; store.client()"], env=env, check=True
    )
    return folder / "mlflow.db"


@pytest.fixture
def empty_world(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    return tmp_path


@pytest.fixture
def world(empty_world, fresh_database):
    shutil.copyfile(fresh_database, empty_world / "mlflow.db")
    return empty_world


def environment(world, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "LONGTAKE"))}
    return {**clean, "PYTHONPATH": str(ROOT), "LONGTAKE_HOME": str(world), "LONGTAKE_CACHE": str(world), **more}


def run(world, uid, how="fine", **env):
    command = [sys.executable, "run.py", uid, how]
    return subprocess.run(command, cwd=world, env=environment(world, **env), capture_output=True, text=True)


def sync(world, **env):
    command = [sys.executable, "-m", "components.common.tracking", "sync"]
    return subprocess.run(command, cwd=world, env=environment(world, **env), capture_output=True, text=True)


def runs(world):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{world / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("longtake")
    return client, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_run_arrives_whole_and_below_its_pipeline(world):
    done = run(world, "pretrain@dino", LONGTAKE_PIPELINE_RUN="sample-1")
    assert done.returncode == 0, done.stderr
    client, found = runs(world)
    run_ = found["pretrain@dino"]
    assert run_.info.status == "FINISHED"
    assert run_.data.params == {"lr": "0.1", "name": "dino"}
    assert run_.data.tags["mlflow.parentRunId"] == found["sample-1"].info.run_id
    assert found["sample-1"].info.status == "FINISHED"
    assert found["sample-1"].data.tags["failed_evaluations"] == "dino-vos"
    assert "failed_evaluations" not in run_.data.tags
    history = client.get_metric_history(run_.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(s, 1.0 / (s + 1)) for s in range(1200)]
    assert [a.path for a in client.list_artifacts(run_.info.run_id, "pictures")] == ["pictures/pretrain@dino.txt"]


def test_a_server_away_for_the_whole_run_loses_nothing(world):
    began = time.monotonic()
    done = run(world, "away", MLFLOW_TRACKING_URI="http://127.0.0.1:9", LONGTAKE_TRACKING_WAIT_S="8")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 40
    assert [j.folder.name for j in pending(world / "tracking")] == ["away"]
    failed = sync(world, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert failed.returncode == 1
    assert "away" in failed.stderr
    assert "1 of 1 pending runs sent" in sync(world).stdout  # the server is back
    client, found = runs(world)
    assert len(client.get_metric_history(found["away"].info.run_id, "loss")) == 1200
    assert not pending(world / "tracking")


def test_the_next_run_sends_what_an_earlier_one_could_not(world):
    run(world, "first", LONGTAKE_TRACKING="off")
    run(world, "second")
    assert set(runs(world)[1]) == {"first", "second"}


def test_a_killed_run_is_marked_and_goes_on_under_the_same_id(world):
    assert run(world, "killed", "kill").returncode == -9
    deadline = time.monotonic() + 60
    while pending(world / "tracking") and time.monotonic() < deadline:
        time.sleep(0.2)  # its forwarder notices that the process is gone
    _, found = runs(world)
    assert found["killed"].info.status == "KILLED"
    assert run(world, "killed").returncode == 0
    _client, again = runs(world)
    assert set(again) == {"killed"}
    assert again["killed"].info.run_id == found["killed"].info.run_id
    assert again["killed"].info.status == "FINISHED"


def test_a_journal_has_an_owner_wherever_it_runs(tmp_path):
    """Pods share the folder but number their processes alike, so the lock says who lives, not a process id."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom components.common.tracking.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.own()\nprint('mine', flush=True)\nsys.stdin.read()"
    )
    seen = Journal(tmp_path / "run")
    assert not seen.owned
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert writer.stdout.readline() == b"mine\n"
    assert seen.owned and seen.owned  # asking changes nothing
    writer.kill()
    writer.communicate()
    assert not seen.owned


def test_stages_that_start_together_do_not_take_each_other_for_a_follower(tmp_path):
    with follower_lock(tmp_path) as mine:
        assert mine and is_followed(tmp_path)
    with (tmp_path / "follower.lock").open("a+") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # another stage in the middle of the same question
        assert not is_followed(tmp_path)


def test_a_failure_keeps_its_reason(world):
    assert run(world, "failed", "fail").returncode == 1
    _, found = runs(world)
    assert found["failed"].info.status == "FAILED"
    assert found["failed"].data.tags["longtake.reason"] == "RuntimeError: out of luck"


def test_a_run_opened_by_others_is_used_and_left_open(world):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{world / 'mlflow.db'}")
    given_run = client.create_run(
        client.create_experiment("theirs", artifact_location=(world / "theirs").as_uri()), run_name="task"
    ).info.run_id
    run(world, "attached", MLFLOW_RUN_ID=given_run)
    assert client.get_run(given_run).info.status == "RUNNING"
    assert len(client.get_metric_history(given_run, "loss")) == 1200
    assert client.get_experiment_by_name("longtake") is None


def test_a_fresh_database_survives_many_first_users(empty_world):
    world = empty_world
    commands = [[sys.executable, "run.py", f"run{i}", "fine"] for i in range(4)]
    env = environment(world, LONGTAKE_PIPELINE_RUN="all")
    processes = [subprocess.Popen(c, cwd=world, env=env, stderr=subprocess.PIPE) for c in commands]
    assert [p.wait(120) for p in processes] == [0] * 4
    assert sync(world).returncode == 0
    _client, found = runs(world)
    assert set(found) == {"run0", "run1", "run2", "run3", "all"}
    parents = {found[f"run{i}"].data.tags["mlflow.parentRunId"] for i in range(4)}
    assert parents == {found["all"].info.run_id}


def test_sending_twice_changes_nothing(world):
    run(world, "twice")
    Journal(world / "tracking" / "twice").save(State())  # as if the forwarder had died before noting its place
    assert sync(world).returncode == 0
    client, found = runs(world)
    assert set(found) == {"twice"}
    assert len(client.get_metric_history(found["twice"].info.run_id, "loss")) == 1200


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3), max_size=8),
    st.integers(0, 400),
)
def test_a_torn_journal_loses_its_last_line_only(tmp_path_factory, events, cut):
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for values in events:
        journal.append("metrics", values=values)
    journal.close()
    if journal.file.exists():
        journal.file.write_bytes(journal.file.read_bytes()[:cut])
    whole = journal.file.read_bytes().count(b"\n") if journal.file.exists() else 0
    after = Journal(folder)
    after.append("end", status="FINISHED", reason="")
    read, offset = after.read(0)
    kept = [e["values"] for e in read if e["kind"] == "metrics"]
    assert kept in (events[:whole], events[: whole + 1])  # the cut may fall just before the line's end
    assert read[-1]["kind"] == "end"
    assert offset == after.file.stat().st_size
    assert json.loads(after.file.read_text().splitlines()[-1])["status"] == "FINISHED"
