"""The work of every node: the DAG is walked from its sources, each stage told what the ones before it will leave."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from components.common.config import section_of
from components.common.errors import StageError
from pipelines.dag import Dag, Node, check_sources, read_dag
from pipelines.forecast import frames as framing
from pipelines.forecast import index as indexing
from pipelines.forecast.corpus import Given, Videos, benchmark_of, videos_of
from pipelines.forecast.counts import Count
from pipelines.forecast.judge import evaluate
from pipelines.forecast.rates import Benchmark, Rates
from pipelines.forecast.train import pretrain
from pipelines.forecast.work import Artifact, Work
from pipelines.workspace import ROOT

REPORT_BYTES_PER_TASK = 1.2e6  # plots and pictures of one column of the leaderboard


@dataclass
class Run:
    """Everything known of a run so far, filled node by node.

    Attributes:
        work: by node.
        artifacts: every output by its path.
        videos, frames, index: of each corpus; `benchmarks` by task; `counts` by method.
    """

    params: Mapping[str, Any]
    rates: Rates
    given: Given | None
    dag: Dag
    work: dict[str, Work] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    videos: dict[str, Videos] = field(default_factory=dict)
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    frames: dict[str, framing.Frames] = field(default_factory=dict)
    index: dict[str, indexing.Index] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)

    def taken_in(self, node: Node) -> Artifact:
        """All that a node reads; a folder stands for the outputs in it."""
        read = [
            artifact
            for path, artifact in self.artifacts.items()
            if any(path == dep or path.startswith(f"{dep}/") for dep in node.data)
        ]
        return Artifact(sum(a.bytes for a in read), sum(a.files for a in read))


def forecast(params: Mapping[str, Any], rates: Rates, given: Given | None = None) -> Run:
    """The work of all nodes that these parameters give.

    Raises:
        StageError: parameters that a stage would refuse, or a corpus whose size nobody can know.
    """
    run = Run(params, rates, given, dag_of(params))
    check_sources(run.dag)
    for node in run.dag.nodes:
        if node.stage not in STAGES:
            raise StageError(f"no forecast for the stage '{node.stage}'", do=f"known: {', '.join(STAGES)}")
        run.work[node.name] = STAGES[node.stage](run, node, _flags(node))
        run.artifacts |= run.work[node.name].outs
    return run


def dag_of(params: Mapping[str, Any]) -> Dag:
    """dvc.yaml resolved with these parameters, in a folder of its own: a forecast changes nothing anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
        (folder / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
        return read_dag(folder)


def _flags(node: Node) -> dict[str, str]:
    words = shlex.split(node.cmd)[3:]
    return {flag[2:]: value for flag, value in zip(words[0::2], words[1::2], strict=True)}


def _download(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    name, rates = flags["dataset"], run.rates
    section = section_of(run.params, "download", name)
    if run.params["datasets"][name] == "raw":
        videos = run.videos[name] = videos_of(name, section, rates, run.given)
        size, files = videos.bytes, float(videos.n)
        pixels = videos.n * videos.video_s * videos.fps * videos.width_px * videos.height_px
        drawing = pixels / rates.world.draw_px_per_s + videos.n * rates.world.clip_s if videos.drawn else 0.0
    else:
        benchmark = run.benchmarks[name] = benchmark_of(name, section, rates)
        files = benchmark.train_pictures + benchmark.pictures
        size, drawing = benchmark.bytes, _stills_s(section, files, rates)
    moving = 0.0 if drawing else size / rates.machine.copy_bytes_per_s
    return Work(
        start_s=rates.machine.start_data_s,
        core_s=drawing,
        serial_s=moving,
        width=max(files, 1),
        memory_bytes=2.0e8,
        outs={flags["data"]: Artifact(size, files)},
        facts={"files": files},
    )


def _stills_s(section: Mapping[str, Any], pictures: float, rates: Rates) -> float:
    """Seconds of one core that render a benchmark; none for one that is fetched."""
    if section.get("source") != "procedural":
        return 0.0
    area = float(section.get("width_px", 256)) * float(section.get("height_px", 192))
    clips = float(section.get("train_clips", 4)) + float(section.get("val_clips", 4))
    return clips * rates.world.clip_s + pictures * area / rates.world.still_px_per_s


def _extract(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    corpus = flags["corpus"]
    params = section_of(run.params, "extract_frames", corpus)
    run.frames[corpus], work = framing.extract(run.videos[corpus], params, run.rates)
    return replace(work, outs={flags["frames"]: run.frames[corpus].store})


def _index(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    corpus = flags["corpus"]
    params = section_of(run.params, "index", corpus)
    benchmarks = list(run.benchmarks.values())
    run.index[corpus], work = indexing.build(run.frames[corpus], params, benchmarks, run.rates)
    return replace(work, outs={flags["index"]: run.index[corpus].folder, flags["leakage"]: Artifact(1_000)})


def _pretrain(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    corpus, method = str(run.params["corpus"]), flags["method"]
    run.counts[method], work = pretrain(
        run.params, method, run.frames[corpus], run.index[corpus], flags["model"], run.rates
    )
    return work


def _evaluate(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    task, count = flags["task"], run.counts[flags["method"]]
    benchmark = run.benchmarks.get(task, run.rates.benchmarks["other"])
    outs = (flags["metrics"], flags["details"])
    return evaluate(task, section_of(run.params, "evaluate", task), count, benchmark, outs, run.rates)


def _report(run: Run, node: Node, flags: Mapping[str, str]) -> Work:
    """compare and promote: they read small files, whatever the corpus; compare draws plots and copies pictures."""
    size = 2_000.0 if node.stage == "promote" else REPORT_BYTES_PER_TASK * len(run.params["tasks"]) * len(run.counts)
    files = 1 if node.stage == "promote" else 30
    return Work(serial_s=run.rates.report_s, memory_bytes=5.0e8, outs={node.outs[0]: Artifact(size, files)})


STAGES: dict[str, Callable[[Run, Node, Mapping[str, str]], Work]] = {
    "download": _download,
    "extract_frames": _extract,
    "index": _index,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "compare": _report,
    "promote": _report,
}
