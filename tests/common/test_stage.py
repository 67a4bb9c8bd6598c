import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common.stage import whole_numbers

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import errno, os, sys, time
from components.common.config import StageParams
from components.common.errors import StageError
from components.common.stage import Context, Port, Stage, main

class P(StageParams):
    mode: str = "fine"
    steps: int = 3

STAGE = Stage(name="index", help="a stage for tests", params=P, keys=("corpus",),
              inputs={"frames": Port("in"), "extra": Port("in", optional=True)},
              outputs={"index": Port("out"), "note": Port("out", kind="file", type="Metrics")})

def run(ctx):
    mode = ctx.params.mode
    (ctx.outputs["index"] / "half").write_text("half")
    for step in range(ctx.params.steps):
        done = ctx.cache / f"step{step}"
        if not done.exists():
            done.write_text(str(os.getpid()))
        ctx.tracker.metrics({"loss": 1.0 / (step + 1)}, step=step)
        if mode == "slow":
            time.sleep(0.2)
    if mode == "bad":
        raise StageError("the data is wrong", where="x.mp4", do="replace it")
    if mode == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "shard.tar")
    if mode == "crash":
        raise RuntimeError("a defect")
    pids = {(ctx.cache / f"step{s}").read_text() for s in range(ctx.params.steps)}
    (ctx.outputs["index"] / "pids").write_text(str(len(pids)))
    ctx.outputs["note"].write_text("{}")
    ctx.note("index", n_steps=ctx.params.steps)

sys.exit(main(STAGE, run))
"""


@pytest.fixture
def world(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a").write_text("a")
    (tmp_path / "params.yaml").write_text("seed: 1\nindex: {sample: {}}\n")
    return tmp_path


def command(*more, out="out/index"):
    return [
        sys.executable,
        "stage.py",
        "--corpus",
        "sample",
        "--frames",
        "frames",
        "--index",
        out,
        "--note",
        "out/note.json",
        *more,
    ]


def stage(world, *more, out="out/index", env=None):
    given = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off", **(env or {})}
    return subprocess.run(command(*more, out=out), cwd=world, env=given, capture_output=True, text=True)


def left_over(world):
    return list((world / "out").rglob("*.partial*")) if (world / "out").exists() else []


def test_a_stage_writes_whole_outputs_and_its_executor_output(world):
    executor = {
        "outputs": {
            "outputFile": str(world / "kfp" / "executor_output.json"),
            "artifacts": {"index": {"artifacts": [{"name": "i", "uri": "s3://b/i", "metadata": {"old": 1}}]}},
        }
    }
    done = stage(world, "--executor-input", json.dumps(executor))
    assert done.returncode == 0, done.stderr
    assert (world / "out/index/half").read_text() == "half"
    assert not left_over(world)
    written = json.loads((world / "kfp" / "executor_output.json").read_text())
    assert written["artifacts"]["index"]["artifacts"] == [
        {"name": "i", "uri": "s3://b/i", "metadata": {"old": 1, "n_steps": 3}}
    ]


@pytest.mark.parametrize(
    ("mode", "code", "line"),
    [
        ("bad", 2, "index: the data is wrong: x.mp4 (replace it)\n"),
        (
            "full",
            4,
            "index: the disk is full: shard.tar (free some space and run it again; it goes on from where it was)\n",
        ),
    ],
)
def test_trouble_is_one_line_and_leaves_the_old_output_alone(world, mode, code, line):
    assert stage(world).returncode == 0
    before = (world / "out/index/pids").stat().st_mtime_ns
    failed = stage(world, "--set", f"mode={mode}")
    assert (failed.returncode, failed.stderr) == (code, line)
    assert (world / "out/index/pids").stat().st_mtime_ns == before
    assert not left_over(world)


def test_a_defect_of_ours_shows_its_traceback(world):
    failed = stage(world, "--set", "mode=crash")
    assert failed.returncode == 1
    assert "RuntimeError: a defect" in failed.stderr
    assert not (world / "out/index").exists()


def test_a_folder_that_no_stage_made_is_never_replaced(world):
    (world / "holiday").mkdir()
    (world / "holiday" / "film.mp4").write_text("mine")
    failed = stage(world, out="holiday")
    assert failed.returncode == 2
    assert "holds something else" in failed.stderr
    assert (world / "holiday" / "film.mp4").read_text() == "mine"


def test_an_output_never_replaces_an_input(world):
    failed = stage(world, out="frames")
    assert failed.returncode == 2
    assert "would replace input 'frames'" in failed.stderr


def test_a_missing_input_and_a_wrong_parameter_are_named(world):
    assert "input 'extra'" not in stage(world).stderr  # optional
    (world / "params.yaml").write_text("index: {sample: {stepz: 3}}\n")
    assert "unknown key 'stepz', did you mean 'steps'?: params.yaml, index.sample" in stage(world).stderr
    (world / "frames" / "a").unlink()
    (world / "frames").rmdir()
    assert "input 'frames' does not exist: frames" in stage(world, "--param", "index.sample={}").stderr


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_stage_leaves_nothing_half_and_goes_on(world, signum):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off"}
    running = subprocess.Popen(command("--set", "mode=slow", "--set", "steps=8"), cwd=world, env=env)
    deadline = time.monotonic() + 30
    while not list(world.glob(".cache/index/sample/*/step2")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signum)
    running.wait(10)
    assert not (world / "out/index").exists()
    done = stage(world, "--set", "mode=slow", "--set", "steps=8")
    assert done.returncode == 0, done.stderr
    assert (world / "out/index/pids").read_text() == "2"  # steps of both processes
    assert not left_over(world)
    assert not list(world.glob(".cache/index/sample/*"))


def test_resumable_work_never_serves_other_parameters_or_data(world):
    assert stage(world, "--set", "mode=bad").returncode == 2
    assert stage(world, "--set", "mode=fine").returncode == 0
    assert (world / "out/index/pids").read_text() == "1"


def test_two_processes_never_write_the_same_output(world):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off"}
    first = subprocess.Popen(command("--set", "mode=slow", "--set", "steps=10"), cwd=world, env=env)
    deadline = time.monotonic() + 30
    while not list(world.glob(".cache/index/sample/*/step0")) and time.monotonic() < deadline:
        time.sleep(0.02)
    second = stage(world)
    assert second.returncode == 5
    assert "another process is writing the same outputs" in second.stderr
    assert first.wait(30) == 0


def test_a_stage_of_one_process_refuses_to_be_started_several_times(world):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off", "RANK": "1"}
    second = subprocess.run(command(), cwd=world, env=env, capture_output=True, text=True)
    assert second.returncode == 2 and "this stage runs in one process" in second.stderr
    assert not (world / "out").exists()


@pytest.mark.parametrize("name", ["download", "extract_frames", "index", "pretrain", "evaluate", "compare", "promote"])
def test_help_answers_at_once_without_heavy_imports(name):
    code = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('components.{name}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'mlflow', 'cv2', 'dvc', 'kfp', 'timm', 'boto3', 'pyarrow', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--params" in done.stdout


def test_parameters_come_from_the_command_line_in_parts(world):
    (world / "params.yaml").unlink()
    parts = ["--param", 'index.shared={"mode": "bad"}', "--param", 'index.sample={"mode": "fine", "steps": 2.0}']
    done = stage(world, "--param", "seed=3", *parts)
    assert done.returncode == 0, done.stderr
    bad = stage(world, "--param", 'index.sample={"steps": "many"}')
    assert bad.returncode == 2
    assert "'steps' = 'many'" in bad.stderr and "--param, index.sample" in bad.stderr
    assert "value not readable" in stage(world, "--param", "index.sample={").stderr
    assert "--param takes a.b=value" in stage(world, "--param", "index").stderr


def test_a_stage_describes_itself_without_its_arguments(world):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "stage.py", "--describe"], cwd=world, env=env, capture_output=True, text=True
    )
    described = json.loads(done.stdout)
    assert described["keys"] == ["corpus"]
    assert described["inputs"]["extra"] == {"kind": "dir", "type": "Dataset", "optional": True, "many": False}
    assert described["outputs"]["note"]["type"] == "Metrics"


def test_check_says_whether_the_parameters_are_right_and_stops(world):
    assert stage(world, "--check").returncode == 0
    assert not (world / "out").exists()
    (world / "frames" / "a").unlink()
    (world / "frames").rmdir()
    assert stage(world, "--check").returncode == 0  # inputs are not asked for
    wrong = stage(world, "--check", "--set", "stepz=2")
    assert wrong.returncode == 2
    assert "unknown key 'stepz', did you mean 'steps'?" in wrong.stderr


def test_kubeflows_floats_are_whole_numbers_again():
    given = {"a": 2.0, "b": [1.0, 0.5, True, "3.0", None], "c": {"d": -4.0, "e": 1e-05}}
    expected = {"a": 2, "b": [1, 0.5, True, "3.0", None], "c": {"d": -4, "e": 1e-05}}
    assert repr(whole_numbers(given)) == repr(expected)
