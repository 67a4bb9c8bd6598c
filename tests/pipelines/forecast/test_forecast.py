"""The command: what it prints, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.ffmpeg import ffmpeg_exe
from pipelines.forecast.__main__ import main
from pipelines.forecast.corpus import benchmark_of
from pipelines.forecast.rates import DEFAULTS, read_rates
from pipelines.workspace import ROOT

BIG = ["--recipe", "own_videos", "--videos", "2000000", "--video-s", "10", "--gpus", "8"]
LONG_RUN = ["--set", "pretrain.shared.trainer.warmup_epochs=0"]


def told(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line of a refusal."""
    assert main(list(args)) not in (0, 1)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_the_sample_run_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    run = told(capsys, "--cpus", "2")
    assert run["slots"] == {"cpus": 2, "gpus": 0, "device": "cpu", "cluster": False}
    assert run["corpora"]["sample"]["videos"] == 64
    seconds = [node["seconds"] for node in run["nodes"].values()]
    assert run["totals"]["seconds"] == pytest.approx(sum(seconds))
    assert run["nodes"]["pretrain@random"]["flops"] == 0
    assert run["assumed"] == {}  # all of it is measured
    assert run["limits"] == []


def test_a_read_is_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = told(capsys)["nodes"]
    store, index = nodes["extract_frames@sample"]["out_bytes"], nodes["index@sample"]["out_bytes"]
    assert nodes["extract_frames@sample"]["in_bytes"] == nodes["download@sample"]["out_bytes"]
    assert nodes["pretrain@dino"]["in_bytes"] == pytest.approx(store + index - 1_000)  # the report on leaks stays
    assert nodes["evaluate@dino-vos"]["in_bytes"] == pytest.approx(
        nodes["pretrain@dino"]["out_bytes"] + nodes["download@vos"]["out_bytes"]
    )


def test_a_cluster_runs_side_by_side_and_copies(capsys: pytest.CaptureFixture[str]) -> None:
    here, there = told(capsys, *BIG[:-2], *LONG_RUN, "--device", "h200"), told(capsys, *BIG, *LONG_RUN)
    assert there["nodes"].keys() == here["nodes"].keys()
    starts = {there["nodes"][f"pretrain@{m}"]["starts_s"] for m in ("random", "dino", "next_frame", "dora")}
    assert len(starts) == 1
    assert here["totals"]["copied_bytes"] == 0
    assert there["totals"]["copied_bytes"] > 8 * there["nodes"]["extract_frames@clips"]["out_bytes"]
    path = [step["task"] for step in there["critical_path"]]
    assert path[:3] == ["download@clips", "extract_frames@clips", "index@clips"]
    assert sum(step["seconds"] for step in there["critical_path"]) == pytest.approx(there["totals"]["seconds"])


def test_parts_of_extraction_become_pods(capsys: pytest.CaptureFixture[str]) -> None:
    one = told(capsys, *BIG, *LONG_RUN)["nodes"]["extract_frames@clips"]
    cut = told(capsys, *BIG, *LONG_RUN, "--set", "extract_frames.clips.parts=8")["nodes"]["extract_frames@clips"]
    assert (one["pods"], cut["pods"]) == (1, 9)  # eight parts and their merge
    assert cut["seconds"] < one["seconds"]
    assert cut["copy_s"] > 4 * one["copy_s"]  # every part copies all videos


def test_limits_are_warned_of_with_what_takes_over(capsys: pytest.CaptureFixture[str]) -> None:
    found = {(limit["node"], limit["what"]): limit for limit in told(capsys, *BIG, *LONG_RUN)["limits"]}
    assert "16" in found["index@clips", "memory"]["line"]
    assert "range" in found["pretrain@dino", "copy"]["takes_over"]
    assert ("pretrain@dino", "data") in found  # a tiny ViT on an H200 waits for its loader
    assert main([*BIG, *LONG_RUN]) == 0
    assert "Warning    index@clips needs " in capsys.readouterr().out


def test_a_draw_that_would_be_empty_is_said_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = told(capsys, "--set", "index.sample.draws.odd={offsets_s: [0, 0.6]}")
    assert [limit["what"] for limit in run["limits"]] == ["draw"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--recipe", "own_video"], "no recipe"),
        (["--recipe", "own_videos"], "--videos N --video-s"),
        (["--videos", "3"], "go together"),
        (["--videos", "0", "--video-s", "10"], "positive"),
        (["--videos", "5", "--video-s", "nan"], "positive"),
        (["--device", "h20"], "did you mean 'h200'"),
        (["--gpus", "-1"], "positive"),
        (["--gpus", "0", "--device", "h200"], "asks for 1 devices"),
        (["--set", "corpora=[other]"], "other"),
        (["--recipe", "published/evaluate"], "no stage makes"),
        (["--set", "tasks"], "a.b=value"),
        (["--assume", "extract.fps=3"], "unknown key 'extract.fps'"),
        (["--assume", "extract.video_core_s=-1"], "extract.video_core_s"),
        (["--rates", "nowhere.yaml"], "no parameter file"),
        (["--cluster", "nowhere.yaml", "--gpus", "1"], "no parameter file"),
        (["--videos", "1", "--video-s", "1"], "for one batch"),
        (["--set", "pretrain.shared.trainer.warmup_epochs=1000"], "the warm-up"),
    ],
)
def test_refusals_are_one_line(capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    assert words in refused(capsys, *args)


@pytest.mark.parametrize("method", ["dino", "dora", "next_frame"])
def test_published_recipes(capsys: pytest.CaptureFixture[str], method: str) -> None:
    run = told(capsys, "--recipe", f"published/{method}", "--videos", "1", "--video-s", "6600", "--gpus", "8")
    assert run["nodes"][f"pretrain@{method}"]["gpu_s"] > 3600


def test_a_folder_of_videos_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lengths come from the headers; what is no video, or is broken, does not stop a forecast."""
    for number in range(40):
        picture = f"testsrc2=s=64x48:r=25:d={3 if number % 2 else 5}"
        if number < 2:
            command = [ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", picture, str(tmp_path / f"{number:02}.mp4")]
            subprocess.run(command, check=True)
        else:
            (tmp_path / f"{number:02}.mp4").write_bytes((tmp_path / f"{number % 2:02}.mp4").read_bytes())
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "00-broken.mp4").write_bytes(b"no video")
    size = sum(file.stat().st_size for file in tmp_path.glob("*.mp4"))
    clips = told(capsys, "--recipe", "own_videos", "--set", f"download.clips.path={tmp_path}")["corpora"]["clips"]
    assert (clips["videos"], clips["bytes"]) == (41, size)
    assert 3 <= clips["video_s"] <= 5
    assert clips["known"] == f"counted in {tmp_path.name}"


def test_a_benchmark_in_a_folder_is_counted_without_its_labels(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "val/a/1.jpg", "val/b/2.JPG", "Annotations/val/1.png", "list.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    found = benchmark_of("knn", {"source": "local", "path": str(tmp_path)}, read_rates())
    assert (found.train_pictures, found.pictures, found.bytes) == (1, 2, 20)


def test_a_folder_without_a_readable_video_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--recipe", "own_videos", "--set", f"download.clips.path={tmp_path}"]
    assert "no video file" in refused(capsys, *given)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    assert "no readable video" in refused(capsys, *given)


def test_a_forecast_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is asked, nor in the recipe's workspace, nor among the temporary files."""
    workspace, here, scratch = ROOT / "runs" / "own_videos", tmp_path / "here", tmp_path / "scratch"
    before = workspace.stat().st_mtime_ns if workspace.exists() else None
    for folder in (here, scratch):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert main(["--recipe", "own_videos", "--videos", "900", "--video-s", "10", *LONG_RUN]) == 0
    assert not list(here.iterdir())
    assert not list(scratch.iterdir())
    assert (workspace.stat().st_mtime_ns if workspace.exists() else None) == before


def test_help_answers_at_once() -> None:
    start = time.process_time(), time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.forecast", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "usage" in done.stdout
    assert not loaded & {"numpy", "dvc", "torch", "pydantic", "yaml"}
    assert time.perf_counter() - start[1] < 10


def test_every_figure_says_how_it_is_known() -> None:
    """The file as it stands, and that the reader insists on it."""
    rates = read_rates()
    leaves = [line for line in DEFAULTS.read_text(encoding="utf-8").splitlines() if "value:" in line]
    shared = 3  # h100 is h200's entry again
    assert len(rates.sources) == len(leaves) + shared
    assert all(figure.source for figure in rates.sources.values())


@pytest.mark.parametrize("leaf", [{"value": 1}, {"value": 1, "how": "guessed", "source": "me"}, {"value": "x"}])
def test_a_figure_without_its_source_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], leaf: dict[str, Any]
) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text(yaml.safe_dump({"new": leaf}))
    assert "new" in refused(capsys, "--rates", str(file))


def test_assumptions_change_the_forecast(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    usual = told(capsys, *BIG, *LONG_RUN)["totals"]["seconds"]
    fast = ["--assume", "machine.copy_bytes_per_s=2e9"]
    assert told(capsys, *BIG, *LONG_RUN, *fast)["totals"]["seconds"] < 0.6 * usual
    file = tmp_path / "rates.yaml"
    figure = {"value": 2e9, "how": "measured", "source": "this test"}
    file.write_text(yaml.safe_dump({"machine": {"copy_bytes_per_s": figure}}))
    run = told(capsys, *BIG, *LONG_RUN, "--rates", str(file))
    assert run["totals"]["seconds"] < 0.6 * usual
    assert "machine.copy_bytes_per_s" not in run["assumed"]


def test_tasks_that_are_not_counted_are_estimated_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Passes of the encoder by what the section says of training; a name that nobody knows is no trouble."""
    world = {"source": "procedural", "layouts": ["voc"], "train_clips": 5, "val_clips": 2, "stills_per_clip": 2}
    sections: dict[str, dict[str, Any]] = {
        "linear": {"epochs": 3},
        "ade_upernet": {"iterations": 7, "batch_size": 2},
        "voc_fcn": {"epochs": 9},
        "brand_new": {"epochs": 2},
    }
    changes = {
        "tasks": list(sections),
        "datasets": {"sample": "raw", **dict.fromkeys(sections, "benchmarks")},
        "download": dict.fromkeys(sections, world),
        "evaluate": sections,
    }
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    run = told(capsys, *words)
    assert run["estimated"] == sorted(sections)
    passes = {task: run["nodes"][f"evaluate@dino-{task}"]["facts"]["passes"] for task in sections}
    pictures = 5 * 2 + 2 * 2
    assert passes == {
        "linear": pictures + 3 * 3 * 10,
        "ade_upernet": pictures + 3 * 7 * 2,
        "voc_fcn": pictures,  # trains on kept features
        "brand_new": pictures + 3 * 2 * 10,
    }
    assert main(words) == 0
    assert "Estimated  ade_upernet, brand_new, linear, voc_fcn: the encoder's passes alone" in capsys.readouterr().out
