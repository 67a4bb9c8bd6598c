"""A stage whose inputs and outputs lie in a store, run as a process: whole, resumable, the same bytes as locally."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common import outputs
from components.common.errors import ExitCode
from components.common.s3.artifact import Artifact, listing_below
from components.common.s3.upload import upload_folder
from tests.common.s3.proxy import Fault

ROOT = Path(__file__).resolve().parents[3]
STAGE = """
import sys
from components.common.config import StageParams
from components.common.errors import StageError
from components.common.incoming import local_path
from components.common.stage import Context, Port, Stage, main

class P(StageParams):
    text: str = "made"

STAGE = Stage(name="index", help="a stage for tests", params=P, keys=("corpus",),
              inputs={"frames": Port("in", ranged=True), "whole": Port("in"),
                      "several": Port("in", optional=True, many=True)},
              outputs={"index": Port("out"), "note": Port("out", kind="file", type="Metrics")})

def run(ctx):
    with (open("runs", "a")) as runs:
        runs.write("ran\\n")
    out = ctx.outputs["index"]
    (out / "text").write_text(ctx.params.text)
    (out / "large").write_bytes(bytes(range(256)) * (11 << 12))
    (out / "frames").write_text(str(ctx.inputs["frames"]) + " " + ctx.input_hash("frames"))
    (out / "whole").write_text((ctx.inputs["whole"] / "a").read_text())
    several = ctx.inputs["several"]
    (out / "several").write_text(" ".join(sorted(p.name + p.read_text() for p in several.iterdir())) if several else "")
    ctx.outputs["note"].write_text("{}")
    ctx.note("index", n=3)

sys.exit(main(STAGE, run))
"""


@pytest.fixture
def world(tmp_path, store, bucket):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("seed: 1\nindex: {sample: {}}\n")
    for name in ("frames", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
        outputs.mark(tmp_path / name, "x", name)
        upload_folder(store, tmp_path / name, f"{bucket}/in/{name}")
    return tmp_path


def command(bucket, *more, **places):
    given = {"frames": f"{bucket}/in/frames", "whole": f"{bucket}/in/whole"}
    given |= {"index": f"{bucket}/out/index", "note": f"{bucket}/out/note.json", **places}
    return [
        sys.executable,
        "stage.py",
        "--corpus",
        "sample",
        *[w for n, p in given.items() for w in (f"--{n}", p)],
        *more,
    ]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off"}


def stage(world, bucket, *more, **places):
    done = command(bucket, *more, **places)
    return subprocess.run(done, cwd=world, env=environment(), capture_output=True, text=True)


def runs(world):
    return (world / "runs").read_text().count("ran") if (world / "runs").exists() else 0


def below(store, address):
    return {name: store.read(obj) for name, obj in listing_below(store, address).items()}


def test_what_goes_to_a_store_is_what_would_stand_here(world, store, bucket, proxy):
    assert stage(world, bucket, index="out/index", note="out/note.json").returncode == 0
    executor = {"outputs": {"outputFile": str(world / "executor.json"), "artifacts": {"index": {"artifacts": [{}]}}}}
    done = stage(world, bucket, "--executor-input", json.dumps(executor))
    assert done.returncode == 0, done.stderr
    local = {p.name: p.read_bytes() for p in (world / "out" / "index").iterdir()}
    assert below(store, f"{bucket}/out/index") == local
    assert store.read(store.head(f"{bucket}/out/note.json")) == b"{}"
    assert Artifact.find(store, f"{bucket}/out/index").content == outputs.content_hash(world / "out" / "index")
    assert "sent: s3://" in done.stdout
    assert json.loads((world / "executor.json").read_text())["artifacts"]["index"]["artifacts"][0]["metadata"] == {
        "n": 3
    }
    assert not list((world / "cache").glob("outgoing/*"))
    assert (local["frames"].decode().split()[-1], local["whole"]) == (outputs.content_hash(world / "frames"), b"whole")


def test_artifacts_one_by_one_and_a_prefix_of_them(world, store, bucket):
    store.put(f"{bucket}/metrics/a.json", b"1")
    store.put(f"{bucket}/metrics/b.json", b"2")
    one_by_one = [f"--several={name}={bucket}/metrics/{name}" for name in ("a.json", "b.json")]
    assert stage(world, bucket, *one_by_one, index="out/one", note="out/note.json").returncode == 0
    assert stage(world, bucket, f"--several={bucket}/metrics", index="out/all", note="out/note.json").returncode == 0
    assert (world / "out/one/several").read_text() == (world / "out/all/several").read_text() == "a.json1 b.json2"


@pytest.mark.parametrize("how", ["store goes away", "killed"])
def test_a_stage_that_could_not_send_only_sends_when_it_is_run_again(world, store, bucket, proxy, how):
    fault = Fault("drop") if how == "store goes away" else Fault("delay", 60)
    proxy.hurt(*[fault] * 99, when=lambda r: "partNumber" in r.path)
    running = subprocess.Popen(command(bucket), cwd=world, env=environment(), stderr=subprocess.PIPE, text=True)
    if how == "killed":
        deadline = time.monotonic() + 60
        while not any(r.fault for r in proxy.requests) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    error = running.communicate(timeout=60)[1]
    assert running.returncode == (ExitCode.UNREACHABLE if how == "store goes away" else -signal.SIGKILL)
    if how == "store goes away":
        last = error.strip().splitlines()[-1]
        assert last.startswith("index: the store does not answer after 4 tries")
        assert last.endswith("(check AWS_ENDPOINT_URL; run it again, it goes on from where it was)")
    assert outputs.MARKER not in listing_below(store, f"{bucket}/out/index")
    proxy.hurt()
    again = stage(world, bucket)
    assert again.returncode == 0, again.stderr
    assert "built by an earlier run" in again.stdout
    assert runs(world) == 1
    assert set(below(store, f"{bucket}/out/index")) == {"text", "large", "frames", "whole", "several", outputs.MARKER}


def test_what_was_built_from_other_parameters_is_not_sent(world, store, bucket, proxy):
    proxy.hurt(*[Fault("drop")] * 99, when=lambda r: "partNumber" in r.path)
    assert stage(world, bucket).returncode == ExitCode.UNREACHABLE
    proxy.hurt()
    assert stage(world, bucket, "--set", "text=other").returncode == 0
    assert runs(world) == 2
    assert below(store, f"{bucket}/out/index")["text"] == b"other"


@pytest.mark.parametrize(
    ("places", "line"),
    [
        ({"frames": "{b}/in/none"}, "nothing at this address: {b}/in/none (run the stage that makes it first)"),
        ({"whole": "{b}/in/none"}, "nothing at this address: {b}/in/none (run the stage that makes it first)"),
        ({"whole": "s3://no-such-bucket-here/x"}, "no such bucket: s3://no-such-bucket-here/x/ (make the bucket"),
        ({"whole": "s3://"}, "an address without a bucket"),
        ({"whole": "{b}/in/whole/a"}, "input 'whole' must be a folder"),
        ({"index": "{b}/in"}, "the address holds something else: {b}/in (name an empty or new prefix)"),
        ({"index": "s3://no-such-bucket-here/x"}, "no such bucket"),
    ],
)
def test_bad_addresses_are_one_line_before_any_work(world, store, bucket, places, line):
    failed = stage(world, bucket, **{name: text.format(b=bucket) for name, text in places.items()})
    assert failed.returncode == 2
    assert failed.stderr.startswith("index: ") and line.format(b=bucket) in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert runs(world) == 0


def test_an_unreachable_store_is_one_line(world, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LONGTAKE_S3", "{retries: 1, backoff_s: 0.01, timeout_s: 1}")
    failed = stage(world, bucket)
    assert failed.returncode == ExitCode.UNREACHABLE
    assert "the store does not answer after 2 tries" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_a_secret_is_in_no_line(world, bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LONGTAKE_S3", "{retries: 5, backoff_s: 0.01, timeout_s: 1}")
    failed = stage(world, bucket)
    assert failed.returncode == ExitCode.UNREACHABLE
    assert "hush" not in failed.stderr + failed.stdout


def test_a_machine_without_boto3_is_told(world, bucket, monkeypatch):
    (world / "boto3.py").write_text("raise ImportError('boto3')")
    failed = stage(world, bucket)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "boto3 is not installed, and an s3:// address needs it" in failed.stderr
