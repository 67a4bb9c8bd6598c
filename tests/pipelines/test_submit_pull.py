"""What a run has made comes into a workspace, and the real DVC then finds its stages done.

The run's outputs are made by the stages themselves and lie in a real S3 server as Kubeflow lays them out.
"""

import json
import shutil
import subprocess
import sys
import uuid

import boto3
import pytest
import yaml

from components.common.errors import StageError
from components.common.hashing import tree_hash
from pipelines.cluster import Cluster
from pipelines.compile import compile_plan, documents, plan
from pipelines.submit.api import Kfp
from pipelines.submit.cli import Access
from pipelines.submit.pull import pull
from pipelines.wiring import task_name
from tests.common.s3.servers import KEYS, moto
from tests.pipelines import tiny

pytestmark = pytest.mark.slow

DONE = (
    "download@knn",
    "download@voc_linear",
    "download@sample",
    "download@vos",
    "extract_frames@sample",
    "index@sample",
)
MADE = ("data", "dvc.lock", ".cache", "models", "results", "metrics")
BUCKET = "longtake"


@pytest.fixture(scope="module")
def endpoint():
    with pytest.MonkeyPatch.context() as patch, moto() as running:
        for name, value in {
            **KEYS,
            "AWS_ENDPOINT_URL": running,
            "LONGTAKE_S3": '{"retries": 1, "backoff_s": 0.01}',
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(scope="module")
def cluster_side(tmp_path_factory):
    """The pods' work: the first stages of the tiny pipeline, really run."""
    folder = tiny.tiny_workspace(tmp_path_factory.mktemp("pull") / "cluster", methods=["dino"])
    done = tiny.repro(folder, "index@sample")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def made(cluster_side):
    return plan(cluster_side, Cluster.read())


@pytest.fixture(scope="module")
def compiled(made):
    return list(documents(compile_plan(made)))


@pytest.fixture
def laptop(cluster_side):
    """A workspace of the same code and parameters, in which nothing was run.

    Always in the same place: what the stages declare is asked once for a folder.
    """
    folder = cluster_side.with_name("laptop")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(cluster_side, folder, ignore=lambda where, names: set(MADE) & set(names))
    shutil.rmtree(folder / ".dvc" / "cache", ignore_errors=True)
    shutil.rmtree(folder / ".dvc" / "tmp", ignore_errors=True)
    return folder


@pytest.fixture
def own(cluster_side, monkeypatch):
    """Place of a new workspace, made from the code that the run had."""
    monkeypatch.setattr("pipelines.workspace.ROOT", cluster_side)
    folder = cluster_side.with_name("own")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture
def way(kfp, endpoint):
    return Access(Kfp(kfp.url), None, Cluster.read())


def send(made, folder, run_id, names=DONE, level=None):
    """Lay outputs into the store as Kubeflow's launcher does: an id of its own for each attempt."""
    client = boto3.client("s3")
    for name in names:
        for output in made.wiring[name].outputs:
            place = folder / output.path
            prefix = f"kfp/longtake/{run_id}/{task_name(name)}/{level or uuid.uuid4()}/{output.flag}"
            for file in [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]:
                tail = "" if place.is_file() else f"/{file.relative_to(place).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=prefix + tail, Body=file.read_bytes())


def run_of(kfp, compiled, states, **more):
    kfp.frames, kfp.final = [{task_name(name): state for name, state in states.items()}], "FAILED"
    return kfp.add_run(compiled, **more)


@pytest.fixture
def run_id(kfp, made, cluster_side, compiled, endpoint):
    """A run whose first six stages were done when the training failed."""
    run = run_of(
        kfp, compiled, {**dict.fromkeys(DONE, "SUCCEEDED"), "pretrain@dino": "FAILED"}, run_id=str(uuid.uuid4())
    )
    send(made, cluster_side, run)
    return run


def dvc(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=tiny.environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def to_run(folder):
    """The stages that are not up to date."""
    return {name for name, state in json.loads(dvc(folder, "status", "--json")).items() if state}


def test_dvc_finds_the_stages_of_a_run_done(way, run_id, laptop, cluster_side, capsys):
    pull(way, run_id, laptop)
    assert {name: tree_hash(laptop / "data" / name) for name in ("raw", "frames", "index", "benchmarks")} == {
        name: tree_hash(cluster_side / "data" / name) for name in ("raw", "frames", "index", "benchmarks")
    }
    assert yaml.safe_load((laptop / "dvc.lock").read_text()) == yaml.safe_load((cluster_side / "dvc.lock").read_text())
    waiting = to_run(laptop)
    assert waiting == to_run(cluster_side)
    assert "pretrain@dino" in waiting
    assert not waiting & set(DONE)
    assert "up to date" in dvc(laptop, "repro", "index@sample")
    said = capsys.readouterr().out
    assert "fetched     6 of 6 finished stages, 0 were here already\n" in said
    assert "not there   pretrain@dino, " in said
    assert not list(laptop.rglob("*.partial"))
    # again: nothing to fetch, and what DVC knows stays
    pull(way, run_id, laptop)
    assert "fetched     0 of 6 finished stages, 6 were here already\n" in capsys.readouterr().out
    assert to_run(laptop) == waiting


def test_a_pull_that_broke_off_goes_on(way, run_id, laptop, monkeypatch, capsys):
    import pipelines.submit.pull as module

    brought, original = [], module._bring

    def bring(store, piece):
        if len(brought) == 2:
            raise KeyboardInterrupt
        brought.append(piece.place)
        original(store, piece)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_bring", bring)
        with pytest.raises(KeyboardInterrupt):
            pull(way, run_id, laptop)
    pull(way, run_id, laptop)
    assert "fetched     4 of 6 finished stages, 2 were here already\n" in capsys.readouterr().out


def test_only_some_stages_can_be_fetched(way, run_id, laptop, capsys):
    pull(way, run_id, laptop, only=["download@sample", "index@sample"])
    assert sorted(p.name for p in (laptop / "data").iterdir()) == ["index", "raw"]
    assert not to_run(laptop) & {"download@sample"}
    assert "index@sample" in to_run(laptop)
    assert "not done    index@sample" in capsys.readouterr().out
    with pytest.raises(StageError, match="no stage 'indx@sample', did you mean 'index@sample'"):
        pull(way, run_id, laptop, only=["indx@sample"])


def test_a_run_of_other_parameters_is_refused_and_fits_a_workspace_of_its_own(way, run_id, laptop, own):
    params = yaml.safe_load((laptop / "params.yaml").read_text())
    params["index"]["sample"]["tolerance_s"] = 0.5
    (laptop / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    with pytest.raises(StageError, match=r"index\.sample\.tolerance_s is 0\.5 here, 0\.05 in the run.*--into runs/"):
        pull(way, run_id, laptop)
    assert not (laptop / "data").exists()
    pull(way, run_id, laptop, into=own)
    assert yaml.safe_load((own / "params.yaml").read_text())["index"]["sample"]["tolerance_s"] == 0.05
    assert not to_run(own) & set(DONE)


def test_what_other_code_has_made_is_fetched_elsewhere_but_not_called_done(way, run_id, laptop, own, capsys, kfp):
    spec = kfp.all_runs[run_id]["pipeline_spec"] = json.loads(json.dumps(kfp.all_runs[run_id]["pipeline_spec"]))
    tasks = spec["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    tasks["index-sample"]["inputs"]["parameters"]["code_hash"]["runtimeValue"]["constant"] = "other"
    with pytest.raises(StageError, match=r"index@sample: its code is another \(the run's is of commit "):
        pull(way, run_id, laptop)
    pull(way, run_id, laptop, into=own)
    assert (own / "data" / "index" / "sample").is_dir()
    assert to_run(own) & set(DONE) == {"index@sample"}
    assert "not done    index@sample" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["data/raw/sample/mine.txt", "data/index/sample.leakage.json", "data/frames"])
def test_what_a_user_made_is_never_replaced(way, run_id, laptop, place):
    (laptop / place).parent.mkdir(parents=True, exist_ok=True)
    (laptop / place).write_text("mine")
    before = tree_hash(laptop / "data")
    with pytest.raises(StageError):
        pull(way, run_id, laptop)
    assert tree_hash(laptop / "data") == before
    assert (laptop / place).read_text() == "mine"


def test_what_does_not_fit_its_marker_never_arrives(way, run_id, laptop):
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"kfp/longtake/{run_id}/index-sample/")["Contents"]
    victim = max(found, key=lambda entry: entry["Size"])
    body = bytearray(client.get_object(Bucket=BUCKET, Key=victim["Key"])["Body"].read())
    body[len(body) // 2] ^= 0xFF
    client.put_object(Bucket=BUCKET, Key=victim["Key"], Body=bytes(body))
    with pytest.raises(StageError, match="not what its marker says"):
        pull(way, run_id, laptop)
    assert not (laptop / "data" / "index" / "sample").exists()
    assert not list((laptop / "data").rglob("*index*.partial"))


def test_the_newest_whole_attempt_is_taken(way, run_id, laptop, made, cluster_side):
    client = boto3.client("s3")
    prefix = f"kfp/longtake/{run_id}/download-sample"
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/zz-killed/data/half", Body=b"half")
    send(made, cluster_side, run_id, ["download@sample"], level="aa-again")
    pull(way, run_id, laptop, only=["download@sample"])
    assert not (laptop / "data" / "raw" / "sample" / "half").exists()


def test_what_the_store_has_lost_is_named(way, run_id, laptop):
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.objects.filter(Prefix=f"kfp/longtake/{run_id}/index-sample/").delete()
    with pytest.raises(StageError, match=r"'index' of index@sample is not in the store"):
        pull(way, run_id, laptop)
    assert not (laptop / "data").exists()


def test_a_stage_from_kubeflows_cache_is_found_where_an_earlier_run_made_it(
    way, kfp, run_id, compiled, made, cluster_side, laptop
):
    cached = run_of(kfp, compiled, dict.fromkeys(DONE, "CACHED"), run_id=str(uuid.uuid4()))
    pull(way, cached, laptop)
    assert not to_run(laptop) & set(DONE)


def test_an_earlier_run_of_other_parameters_does_not_serve(way, kfp, compiled, laptop, made, cluster_side):
    other = run_of(kfp, compiled, dict.fromkeys(DONE, "SUCCEEDED"), runtime_config={"parameters": {"seed": 1}})
    send(made, cluster_side, other)
    cached = run_of(kfp, compiled, dict.fromkeys(DONE, "CACHED"), run_id=str(uuid.uuid4()))
    with pytest.raises(StageError, match="is not in the store"):
        pull(way, cached, laptop, only=["index@sample"])


def test_runtime_parameters_count_as_the_runs(way, kfp, compiled, laptop):
    run = run_of(kfp, compiled, dict.fromkeys(DONE, "SUCCEEDED"), runtime_config={"parameters": {"seed": 1}})
    with pytest.raises(StageError, match="seed is 0 here, 1 in the run"):
        pull(way, run, laptop)
