"""The whole pipeline at a size that runs in about a minute: the same DAG, the same code, few and small frames."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.common.hashing import tree_hash
from pipelines.workspace import ROOT, make_workspace, merged_params

__all__ = ["ROOT", "environment", "repro", "results", "tiny_workspace"]

WORLD = {"source": "procedural", "width_px": 96, "height_px": 64, "fps": 12, "clip_s": 3, "workers": 1}
DRAWS = {"frame": {"offsets_s": [0]}, "pair": {"offsets_s": [0, 0.5]}, "clip": {"n_frames": 2, "gap_s": 0.5}}
ARGS = {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16, "global_size_px": 32, "local_size_px": 16}
TINY: dict[str, Any] = {
    "methods": ["random", "dino", "dora"],
    "download": {
        "sample": {**WORLD, "layouts": ["videos"], "clips": 4, "tracks": True},
        "knn": {
            **WORLD,
            "layouts": ["imagenet"],
            "crop_px": 32,
            "clip_s": 2,
            "objects": [5, 6],
            "train_clips": 16,
            "val_clips": 2,
        },
        "vos": {**WORLD, "layouts": ["davis"], "clip_s": 1, "train_clips": 1, "val_clips": 2},
        "voc_linear": {**WORLD, "layouts": ["voc"], "train_clips": 3, "val_clips": 2, "stills_per_clip": 2},
    },
    "extract_frames": {"sample": {"fps": 4, "short_side_px": 48}},
    "index": {"sample": {"draws": DRAWS}},
    "pretrain": {
        "shared": {
            "encoder": {"model_args": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}},
            "trainer": {
                "batch_size": 8,
                "max_steps": 6,
                "warmup_epochs": 0.5,
                "workers": 0,
                "log_every_steps": 1,
                "checkpoint_every_s": 0,
            },
        },
        "random": {"args": ARGS},
        "dino": {"trainer": {"max_steps": 6}, "args": ARGS},
        "next_frame": {"args": ARGS},
        "dora": {"trainer": {"max_steps": 6, "batch_size": 4}, "args": {**ARGS, "n_frames": 2, "clip_crop_px": 48}},
    },
    "evaluate": {
        "knn": {"resize_px": 40, "crop_px": 32},
        "vos": {"input_px": 64},
        "voc_linear": {"input_px": 64, "label_px": 24, "epochs": 2},
    },
}


def tiny_workspace(folder: Path, **changes: Any) -> Path:
    """A workspace with the tiny parameters laid over params.yaml."""
    return make_workspace(folder, merged_params(None, [TINY, changes]))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Stages run with this Python, one thread, and a store of their own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "LONGTAKE"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    quiet = {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **quiet, "PATH": path, "LONGTAKE_HOME": str(folder), "LONGTAKE_TRACKING": "off", **more}


def repro(folder: Path, *targets: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`dvc repro` in a workspace."""
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    return subprocess.run(command, cwd=folder, env=environment(folder, **env), capture_output=True, text=True)


def results(folder: Path) -> dict[str, str]:
    """Hash of every output but the registry's decision, by path."""
    outs = ["data/raw", "data/benchmarks", "data/frames", "data/index", "models", "metrics", "results"]
    return {str(p.relative_to(folder)): tree_hash(p) for out in outs for p in sorted((folder / out).glob("*"))}
