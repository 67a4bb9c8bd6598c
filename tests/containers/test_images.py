"""The images themselves, in a real engine: what they hold, as whom they run, and that they give a laptop's bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from components.common.errors import ExitCode
from components.common.hashing import file_hash, tree_hash
from tests.conftest import MARK
from tests.pipelines.tiny import ROOT, tiny_workspace

pytestmark = [pytest.mark.docker, pytest.mark.slow]
STRANGER = "12345:0"  # a user id that the image has never heard of, as OpenShift gives it


def stages() -> list[tuple[str, str]]:
    """(image, stage) as dvc.yaml says."""
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return [(entry.get("do", entry)["meta"]["image"], stage) for stage, entry in written.items()]


def attempt(image: str, *command: str, options: tuple[str, ...] = (), user: str = STRANGER) -> CompletedProcess[str]:
    """A command in a container that may as little as a restricted pod, and has no network."""
    locked = ["--rm", "--read-only", f"--user={user}", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--network=none"]
    limits = ["--security-opt=no-new-privileges", "--env=OMP_NUM_THREADS=1"]
    return subprocess.run(
        ["docker", "run", *locked, *limits, *options, image, *command], capture_output=True, text=True
    )


def run(image: str, *command: str, options: tuple[str, ...] = (), user: str = STRANGER) -> str:
    """Output of a command that ends well."""
    done = attempt(image, *command, options=options, user=user)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def inspect(image: str) -> dict:
    return json.loads(subprocess.check_output(["docker", "image", "inspect", image]))[0]


@pytest.mark.parametrize(("image", "stage"), stages())
def test_an_image_answers_for_its_stages(docker_images, image, stage):
    assert f"python -m components.{stage}" in run(docker_images[image], "python", "-m", f"components.{stage}", "--help")


@pytest.mark.parametrize("image", ["data", "train"])
def test_nobody_is_root_and_any_user_may_write_where_work_goes(docker_images, image):
    config = inspect(docker_images[image])["Config"]
    assert config["User"] == "10001:0"
    code = """
import getpass, os, sys, tempfile
from pathlib import Path
assert os.getuid() == 12345 and getpass.getuser() == "longtake" and Path.home() == Path("/tmp")
assert sys.prefix == "/opt/venv" and "" not in sys.path and os.getcwd() == "/work"
import components
assert components.__file__ == "/opt/longtake/components/__init__.py"
for folder in ("/work", "/cache"):
    assert os.access(folder, os.W_OK), folder
for folder in ("/opt/longtake", "/opt/longtake/components", "/opt/venv", "/etc"):
    assert not os.access(folder, os.W_OK), folder
"""
    volumes = ("--volume=/work", "--volume=/cache")
    run(docker_images[image], "python", "-c", code, options=volumes)


def test_what_each_image_holds(docker_images):
    found = "from importlib.util import find_spec; import sys; print([n for n in sys.argv[1:] if find_spec(n)])"
    names = ["torch", "timm", "mlflow", "boto3", "dvc", "dvc_s3", "imageio_ffmpeg", "kfp", "kubernetes", "pytest"]
    held = {image: run(name, "python", "-c", found, *names).strip() for image, name in docker_images.items()}
    assert held["data"] == str(["mlflow", "boto3", "dvc", "dvc_s3", "imageio_ffmpeg"])
    assert held["train"] == str(["torch", "timm", "mlflow", "boto3", "kubernetes"])
    for name in docker_images.values():
        assert sorted(run(name, "ls", "-A", "/opt/longtake").split()) == [
            "LICENSE", "components", "pipelines", "pyproject.toml"
        ]  # fmt: skip


def test_all_code_is_there_and_nothing_else(docker_images):
    """Templates and settings too, which lie beside the code and which a rule of .dockerignore could catch."""
    ignored = ("__pycache__", ".pyc")
    tops = ("components", "pipelines")
    here = [path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()]
    wanted = sorted(str(path.relative_to(ROOT)) for path in here if not any(part in str(path) for part in ignored))
    for name in docker_images.values():
        command = f"cd /opt/longtake && find {' '.join(tops)} -type f"
        assert sorted(run(name, "sh", "-c", command).splitlines()) == wanted


def test_ffmpeg_is_the_one_that_comes_with_the_lock(docker_images):
    import imageio_ffmpeg

    code = "import components.common.ffmpeg as f, hashlib; e = f.ffmpeg_exe()\n"
    code += "print(e, hashlib.sha256(open(e, 'rb').read()).hexdigest())"
    exe, digest = run(docker_images["data"], "python", "-c", code).split()
    assert "imageio_ffmpeg" in exe and digest == file_hash(Path(imageio_ffmpeg.get_ffmpeg_exe()))


def test_the_train_image_compiles_and_plots_without_a_home(docker_images):
    """The published recipes compile: on cores that needs a C++ compiler and Python's headers at run time."""
    code = """
import torch
import torch._inductor.config
from matplotlib.figure import Figure
Figure().savefig("/tmp/figure.png")
torch._inductor.config.cpp_cache_precompile_headers = False  # pays from the second kernel on
module = torch.nn.Linear(2, 2)
x = torch.ones(1, 2)
print(torch.allclose(torch.compile(module)(x), module(x)), torch.version.cuda is not None)
"""
    assert run(docker_images["train"], "python", "-c", code).split() == ["True", "True"]


def test_the_train_image_can_build_what_launches_kernels_on_a_gpu(docker_images):
    """Triton compiles its driver module with the machine's C compiler when the first kernel runs."""
    code = """
import subprocess, sysconfig
from importlib.util import find_spec
from pathlib import Path
nvidia = Path(find_spec("triton").origin).parent / "backends/nvidia"
places = [nvidia / "include", sysconfig.get_paths(scheme="posix_prefix")["include"]]
headers = [f"-I{place}" for place in places]
subprocess.run(["gcc", "-c", nvidia / "driver.c", "-o", "/tmp/driver.o", *headers], check=True)
print(Path("/tmp/driver.o").stat().st_size > 0)
"""
    assert run(docker_images["train"], "python", "-c", code).strip() == "True"


@pytest.mark.parametrize("image", ["data", "train"])
def test_labels_say_what_an_image_is(docker_images, image):
    labels = inspect(docker_images[image])["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    head = subprocess.check_output(["git", "-C", str(ROOT), "log", "-1", "--format=%H"], text=True).strip()
    assert labels[f"{prefix}title"] == f"longtake/{image}" and labels[f"{prefix}licenses"] == "Apache-2.0"
    assert labels[f"{prefix}version"] == "0.1.0" and labels[f"{prefix}created"].endswith("Z")
    revision = labels[f"{prefix}revision"]
    assert len(revision.partition("-")[0]) == len(head)
    assert run(docker_images[image], "printenv", "LONGTAKE_GIT_REVISION").strip() == revision


@pytest.mark.parametrize("image", ["data", "train"])
def test_no_secret_is_in_the_history(docker_images, image):
    command = ["docker", "history", "--no-trunc", "--format={{.CreatedBy}}", docker_images[image]]
    history = subprocess.check_output(command, text=True)
    assert MARK not in history and "BEGIN CERTIFICATE" not in history
    assert not any(name in history for name in ("--cert", "index-url", "password", "token"))
    assert run(docker_images[image], "sh", "-c", "ls -A /run/secrets 2>/dev/null || true") == ""


def test_no_secret_is_in_a_layer(docker_images):
    """The certificates that the build was given end in a mark; all bytes of the light image are searched for it."""
    mark, tail = MARK.encode(), b""
    with subprocess.Popen(["docker", "save", docker_images["data"]], stdout=subprocess.PIPE) as saved:
        assert saved.stdout
        n_bytes = 0
        while block := saved.stdout.read(1 << 24):
            assert mark not in tail + block
            tail, n_bytes = block[-len(mark) :], n_bytes + len(block)
    assert saved.returncode == 0 and n_bytes > 1 << 28


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """(image, stage and its arguments): the sample world down to a judged encoder, in the order of the DAG."""
    frames, index, model = "data/frames/sample", "data/index/sample", "models/dino"
    knn = "data/benchmarks/knn"
    return [
        ("data", ("download", "--dataset", "sample", "--data", "data/raw/sample")),
        ("data", ("download", "--dataset", "knn", "--data", knn)),
        ("data", ("extract_frames", "--corpus", "sample", "--videos", "data/raw/sample", "--frames", frames)),
        ("data", ("index", "--corpus", "sample", "--frames", frames, "--benchmarks", "data/benchmarks",
                  "--index", index, "--leakage", "data/index/sample.leakage.json")),
        ("train", ("pretrain", "--method", "dino", "--frames", frames, "--index", index, "--model", model)),
        ("train", ("evaluate", "--method", "dino", "--task", "knn", "--model", model, "--benchmark", knn,
                   "--metrics", "metrics/dino-knn.json", "--details", "results/dino-knn")),
    ]  # fmt: skip


def made(folder: Path) -> dict[str, str]:
    """Hash of everything below a workspace's outputs, by place."""
    tops = ("data/raw", "data/benchmarks", "data/frames", "data/index", "models", "metrics", "results")
    return {str(path.relative_to(folder)): tree_hash(path) for top in tops for path in (folder / top).iterdir()}


def test_stages_give_the_same_bytes_in_an_image_as_on_the_machine(docker_images, tmp_path):
    """Same seed, same lock, one thread: frames, index, weights and scores are equal to the last bit."""
    here, there = tiny_workspace(tmp_path / "here"), tiny_workspace(tmp_path / "there")
    there.chmod(0o777)
    tools = tmp_path / "tools"  # a PATH without a system's ffmpeg: the image has the packaged one alone
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    environment = {"PATH": str(tools), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LONGTAKE_TRACKING": "off"}
    mounts = (f"--volume={there}:/there", "--workdir=/there", "--tmpfs=/cache", "--env=LONGTAKE_TRACKING=off")
    for image, (stage, *arguments) in commands():
        command = [sys.executable, "-m", f"components.{stage}", *arguments]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        user = f"{os.getuid() or 12345}:0"
        run(docker_images[image], "python", "-m", f"components.{stage}", *arguments, options=mounts, user=user)
    assert made(there) == made(here) and len(made(here)) == 8


def test_a_full_disk_is_told_in_one_line(docker_images, tmp_path):
    params = tiny_workspace(tmp_path / "tiny") / "params.yaml"
    for folder in (tmp_path, params.parent):
        folder.chmod(0o755)
    home = "/work"  # the images' working folder
    places = (f"--volume={params}:{home}/params.yaml:ro", f"--tmpfs={home}/data:size=16k,mode=1777", "--tmpfs=/cache")
    stage = ("python", "-m", "components.download", "--dataset", "sample", "--data", "data/raw/sample")
    done = attempt(docker_images["data"], *stage, options=(*places, "--env=LONGTAKE_TRACKING=off"))
    assert done.returncode == ExitCode.NO_ROOM
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
