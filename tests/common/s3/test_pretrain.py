"""Training from a store gives the same model as training from local files, in one process and under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.common import outputs
from components.common.s3.artifact import listing_below
from components.common.s3.upload import upload_folder
from tests.pretrain.corpus import write_corpus
from tests.pretrain.test_run import SECTION

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(tmp_path, store, bucket):
    for folder in write_corpus(tmp_path):
        outputs.mark(folder, "x", folder.name)
        upload_folder(store, folder, f"{bucket}/data/{folder.name}")
    (tmp_path / "params.yaml").write_text(json.dumps({"seed": 0, "pretrain": SECTION}))
    return tmp_path


def train(world, base, model, *launcher):
    """The stage with frames and index below `base`; returns its standard output."""
    launcher = launcher or ("-m",)
    command = [sys.executable, *launcher, "components.pretrain", "--method", "dino", "--set", "trainer.workers=1"]
    command += ["--frames", f"{base}/frames", "--index", f"{base}/index", "--model", model]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=world, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_same_model_comes_out(world, store, bucket, proxy):
    train(world, str(world), "model")
    train(world, f"{bucket}/data", f"{bucket}/models/model")
    there = {name: store.read(obj) for name, obj in listing_below(store, f"{bucket}/models/model").items()}
    assert there == {
        file.relative_to(world / "model").as_posix(): file.read_bytes()
        for file in (world / "model").rglob("*")
        if file.is_file()
    }
    asked = [request.path for request in proxy.requests if request.range and "/data/frames/shard" in request.path]
    assert asked  # by range
    assert not list((world / "cache" / "copies").rglob("shard-*.tar"))  # and never copied whole


def test_torchrun_reads_and_writes_addresses(world, store, bucket):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    train(world, f"{bucket}/data", f"{bucket}/models/two", *launcher)
    assert {"encoder.safetensors", outputs.MARKER} <= set(listing_below(store, f"{bucket}/models/two"))
