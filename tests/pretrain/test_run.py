"""The stage from its command line: what it writes, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from components.common.config import parse
from components.common.encoder import load_encoder
from components.common.errors import ExitCode
from components.common.stage import main
from components.pretrain.__main__ import STAGE, run
from components.pretrain.config import find_method, known_methods, params_model
from components.pretrain.export import write_curves, write_metrics, write_pictures
from components.pretrain.run import view_plan

ROOT = Path(__file__).parents[2]
SECTION: dict[str, Any] = {
    "shared": {
        "encoder": {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3},
        },
        "trainer": {
            "batch_size": 8, "max_steps": 6, "warmup_epochs": 0, "workers": 0, "log_every_steps": 2,
            "checkpoint_every_s": 0,
        },
    },
    "random": {"method": "dino", "trainer": {"max_steps": 0}, "args": {"out_dim": 16, "hidden_dim": 16}},
    "dino": {"args": {"out_dim": 16, "hidden_dim": 16, "global_size_px": 32, "local_size_px": 16, "local_crops": 2}},
    "dora": {
        "args": {
            "out_dim": 16, "hidden_dim": 16, "global_size_px": 32, "local_size_px": 16, "local_crops": 1,
            "clip_crop_px": 48, "n_frames": 4, "n_objects": 2,
        }
    },
}  # fmt: skip
Command = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path, corpus: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Arguments of a run into `tmp_path/<model>`; the work folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"seed": 0, "pretrain": SECTION}))

    def arguments(method: str, *changes: str, model: str = "model") -> list[str]:
        sets = [part for change in changes for part in ("--set", change)]
        return ["--method", method, "--frames", str(corpus[0]), "--index", str(corpus[1]), "--model", model, *sets]

    return arguments


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def train(arguments: list[str]) -> None:
    assert main(STAGE, run, arguments) == ExitCode.OK


def test_a_run_leaves_a_model_folder_and_no_checkpoint(command: Command, tmp_path: Path) -> None:
    train(command("dora"))
    files = contents(tmp_path / "model")
    assert {"encoder.safetensors", "config.json", "README.md", "load.py", "metrics.json", "curves.csv"} <= set(files)
    assert "pictures/tracked_objects.gif" in files
    figures = json.loads(files["metrics.json"])
    assert figures["step"] == 6 and figures["samples_seen"] == 48
    lines = files["curves.csv"].decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4", "6"]
    last = dict(zip(lines[0].split(","), map(float, lines[-1].split(",")), strict=True))
    assert {"object", "local", "loss", "lr", "teacher_entropy", "feature_std", "rankme"} <= set(last)
    assert all(figures[name] == value for name, value in last.items())
    encoder = load_encoder(tmp_path / "model")
    assert encoder.cls(torch.zeros(2, 3, 32, 32)).shape == (2, 24)
    assert json.loads(files["config.json"])["longtake"]["method"] == "dora"
    assert not list((tmp_path / ".cache").rglob("*.pt"))
    text = b"".join(value for name, value in files.items() if not name.endswith(".gif")).decode("latin1")
    assert str(tmp_path) not in text, "no path of this machine"


def test_the_same_run_gives_the_same_bytes(command: Command, tmp_path: Path) -> None:
    train(command("dino", model="a/model"))
    train(command("dino", model="b/model"))
    assert contents(tmp_path / "a" / "model") == contents(tmp_path / "b" / "model")
    train(command("dino", "seed=1", model="c/model"))
    assert contents(tmp_path / "a" / "model") != contents(tmp_path / "c" / "model")


def test_an_upload_that_fails_does_not_cost_the_training(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubeflow uploads after the stage; the pod that is tried again finds the last step and only exports it."""
    told = {"outputs": {"outputFile": str(tmp_path / "told.json"), "artifacts": {}}}
    train([*command("dino", model="first/model"), "--executor-input", json.dumps(told)])
    capsys.readouterr()
    train([*command("dino", model="again/model"), "--executor-input", json.dumps(told)])
    assert "going on from the checkpoint of step 6" in capsys.readouterr().out
    assert contents(tmp_path / "first" / "model") == contents(tmp_path / "again" / "model")


def test_no_steps_export_the_start(command: Command, tmp_path: Path) -> None:
    train(command("random", model="random"))
    train(command("dino", "trainer.max_steps=0", model="dino"))
    random, dino = (load_encoder(tmp_path / name).model.state_dict() for name in ("random", "dino"))
    assert all(torch.equal(random[name], value) for name, value in dino.items())
    assert json.loads((tmp_path / "random" / "metrics.json").read_text()) == {"samples_seen": 0, "step": 0}
    assert (tmp_path / "random" / "curves.csv").read_text() == "step\n"


def test_training_can_start_from_an_encoder(command: Command, tmp_path: Path) -> None:
    train(command("dino", model="first"))
    train(command("random", "seed=5", f"encoder.start_from={tmp_path / 'first'}", model="second"))
    first, second = (load_encoder(tmp_path / name).model.state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_the_start_may_be_another_stages_model_or_scratch(command: Command, tmp_path: Path) -> None:
    train(command("dino", model="first"))
    train([*command("random", "seed=5", model="second"), "--start", str(tmp_path / "first")])
    train([*command("random", model="third"), "--start", str(ROOT / "components" / "pretrain" / "scratch")])
    train(command("random", model="fourth"))
    first, second, third, fourth = (
        load_encoder(tmp_path / name).model.state_dict() for name in ("first", "second", "third", "fourth")
    )
    assert all(torch.equal(first[name], value) for name, value in second.items())
    assert all(torch.equal(fourth[name], value) for name, value in third.items())
    facts = [
        json.loads((tmp_path / name / "config.json").read_text())["longtake"] for name in ("second", "third", "fourth")
    ]
    assert "start_hash" in facts[0] and facts[1] == facts[2]


def test_two_starts_are_refused(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(command("dino", model="first"))
    both = [*command("dino", "encoder.start_from=elsewhere"), "--start", str(tmp_path / "first")]
    assert main(STAGE, run, both) == ExitCode.BAD_INPUT
    assert "cannot start from both" in capsys.readouterr().err


BAD = [
    (["dinno"], "no entry 'dinno'"),
    (["dino", "method=dinno"], "no method 'dinno', did you mean 'dino'?"),
    (["dino", "trainer.learning_rate=1"], "unknown key 'trainer.learning_rate'"),
    (["dino", "args.out_dimm=16"], "unknown key 'args.out_dimm', did you mean 'out_dim'?"),
    (["dino", "trainer.lr=-1"], "'trainer.lr' = -1"),
    (["dino", "trainer.batch_size=9", "trainer.accumulate=2"], "batch_size 9 is no multiple of accumulate 2"),
    (["dino", "trainer.batch_size=1000"], "1000"),
    (["dino", "trainer.warmup_epochs=50"], "the warm-up takes"),
    (["dino", "encoder.architecture=vit_tinny"], "timm cannot build 'vit_tinny'"),
    (["dino", "encoder.start_from=nowhere"], "no encoder there"),
    (["dino", "resume=nowhere.pt"], "no such checkpoint"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_one_clear_line(
    arguments: list[str], words: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(STAGE, run, command(*arguments)) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "model").exists() and not (tmp_path / ".model.partial").exists()


def test_a_checkpoint_can_be_named_and_must_fit(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(command("dino", model="whole/model"))
    monkeypatch.setattr("components.pretrain.run._export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(STAGE, run, command("dino", "trainer.log_every_steps=4", model="cut/model")) == ExitCode.INTERRUPTED
    (kept,) = (tmp_path / ".cache").rglob("last.pt")
    kept = kept.rename(tmp_path / "kept.pt")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    capsys.readouterr()
    for change, words in (("trainer.lr=0.1", "trainer.lr is 0.0005 there and 0.1 here"), ("seed=1", "seed is 0 there")):
        arguments = command("dino", "trainer.log_every_steps=4", f"resume={kept}", change)
        assert main(STAGE, run, arguments) == ExitCode.BAD_INPUT
        assert words in capsys.readouterr().err
    assert main(STAGE, run, command("dora", f"resume={kept}")) == ExitCode.BAD_INPUT
    assert "belongs to another run" in capsys.readouterr().err
    train(
        command("dino", "trainer.log_every_steps=4", "trainer.checkpoint_every_s=9", f"resume={kept}", model="go/model")
    )
    assert "going on from the checkpoint of step 6" in capsys.readouterr().out
    whole, resumed = contents(tmp_path / "whole" / "model"), contents(tmp_path / "go" / "model")
    assert whole["encoder.safetensors"] == resumed["encoder.safetensors"]


def process(arguments: list[str], prelude: str = "") -> subprocess.Popen[str]:
    """The stage in a process of its own; `prelude` is code to run in it before."""
    code = f"import sys\n{prelude}\nimport runpy\nrunpy.run_module('components.pretrain', run_name='__main__')"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_help_needs_no_torch() -> None:
    found = process(["--help"], "import atexit; atexit.register(lambda: print('torch' in sys.modules))")
    text, _ = found.communicate(timeout=60)
    assert "--index" in text and text.splitlines()[-1] == "False"


@pytest.mark.slow
def test_it_runs_without_mlflow_dvc_and_kfp(command: Command, tmp_path: Path) -> None:
    absent = "for name in ('mlflow', 'dvc', 'kfp'): sys.modules[name] = None"
    found = process(command("dino"), absent)
    text, _ = found.communicate(timeout=300)
    assert found.returncode == 0, text
    assert (tmp_path / "model" / "encoder.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dino", "dora"])
def test_a_stage_killed_at_random_instants_gives_the_same_bytes(method: str, command: Command, tmp_path: Path) -> None:
    longer = ("trainer.max_steps=60", "trainer.workers=1", "trainer.epochs=1000")
    train(command(method, *longer, model="whole/model"))
    rng, seen = np.random.default_rng(0), b""
    for _ in range(3):
        running = process(command(method, *longer, model="killed/model"))
        seen = wait_for_checkpoint(running, tmp_path / ".cache", seen)
        time.sleep(float(rng.uniform(0, 0.3)))
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
        assert running.returncode == -signal.SIGKILL, "it was over before it could be killed"
        assert not (tmp_path / "killed" / "model").exists()
    last = process(command(method, *longer, model="killed/model"))
    text, _ = last.communicate(timeout=300)
    assert last.returncode == 0 and "going on from the checkpoint of step" in text, text
    assert contents(tmp_path / "whole" / "model") == contents(tmp_path / "killed" / "model")


def wait_for_checkpoint(running: subprocess.Popen[str], cache: Path, seen: bytes = b"", most_s: float = 120) -> bytes:
    """Wait until a checkpoint other than `seen` has been written; its bytes."""
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()[0]
        for file in cache.rglob("last.pt"):
            with contextlib.suppress(FileNotFoundError):  # between two renames
                if (data := file.read_bytes()) != seen:
                    return data
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint within {most_s} s")


@pytest.mark.slow
def test_two_processes_of_the_stage_equal_one(command: Command, tmp_path: Path) -> None:
    quiet = ("args.drop_path=0", "trainer.batch_size=16")
    train(command("dino", *quiet, model="one/model"))
    found = process(command("dino", *quiet, "trainer.processes=2", model="two/model"))
    text, _ = found.communicate(timeout=300)
    assert found.returncode == 0, text
    one, two = (load_encoder(tmp_path / name / "model").model.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["trainer.processes=2", "trainer.workers=2"])
def test_a_killed_stage_leaves_no_process_behind(change: str, command: Command, tmp_path: Path) -> None:
    running = process(command("dino", change, "trainer.max_steps=100000", "trainer.epochs=100000"))
    wait_for_checkpoint(running, tmp_path / ".cache")
    others = psutil.Process(running.pid).children(recursive=True)
    assert others
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not psutil.wait_procs(others, timeout=30)[1]


def test_methods_are_found_by_their_files() -> None:
    assert {"dino", "next_frame", "dora"} <= set(known_methods())
    assert find_method("dino").name == "dino"


def test_curves_keep_every_digit(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-300, "rankme": 3.0}]
    write_curves(tmp_path / "c.csv", rows)
    assert (tmp_path / "c.csv").read_text() == "step,loss,rankme\n1,0.30000000000000004,\n2,1e-300,3.0\n"


def test_metrics_are_json_even_when_a_figure_is_not_a_number(tmp_path: Path) -> None:
    write_metrics(tmp_path / "m.json", {"b": float("nan"), "a": 1.5})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": 1.5}


def test_one_picture_is_a_png_and_several_a_gif(tmp_path: Path) -> None:
    from PIL import Image

    red, blue = (np.full((4, 6, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 0, 200]))
    files = write_pictures(tmp_path / "p", {"still": [red], "film": [red, blue]})
    assert [f.name for f in files] == ["film.gif", "still.png"]
    assert Image.open(files[0]).n_frames == 2  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(Image.open(files[1])), red)
    before = contents(tmp_path / "p")
    write_pictures(tmp_path / "p", {"still": [red], "film": [red, blue]})
    assert contents(tmp_path / "p") == before


def test_colours_of_the_profile_replace_those_of_every_method() -> None:
    """`colours` reaches the views of a method; without it they are the published ones."""
    section = {**SECTION["shared"], **SECTION["dino"], "method": "dino"}
    mild = {**section, "colours": {"grey_p": 0.0, "blur_p": 0.0}}
    published, plan = (view_plan(parse(params_model("dino", s), s, "pretrain.dino")) for s in (section, mild))
    assert plan == published.recoloured(grey_p=0.0, blur_p=0.0) != published
    assert {recipe.grey_p for crop in plan.crops for recipe in crop.photometric} == {0.0}
