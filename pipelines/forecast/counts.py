"""Operations a training sample takes: counted once by `python -m bench.flops`, kept in counts.json.

Settings that nobody has counted are counted on the spot, in a process of its own: this package imports no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from components.common.config import Params, section_of
from components.common.context import cache_root
from components.common.errors import StageError
from components.common.hashing import json_hash
from components.common.outputs import write_text

STORED = Path(__file__).with_name("counts.json")
ROOT = Path(__file__).resolve().parents[2]
# What decides the operations of a sample; the trainer's settings do not.
DECIDING = ("method", "encoder", "args")


class Count(Params):
    """One sample of one method.

    Attributes:
        draw, frames: which draw of the index it reads, and how many frames.
        views, view_px: crops, and pixels in them, over all frames.
        flops: of one forward and backward pass (matrix products and attention).
        student_weights, teacher_weights, encoder_weights: numbers in each network.
        dim, depth, patch_px: of the encoder, a ViT.
        example: where these settings stand.
    """

    method: str
    draw: str
    frames: int = Field(ge=1)
    views: int
    view_px: int
    flops: int
    student_weights: int
    teacher_weights: int
    encoder_weights: int
    dim: int
    depth: int
    patch_px: int
    example: str = ""

    @property
    def model_bytes(self) -> int:
        """The exported encoder: float32."""
        return 4 * self.encoder_weights

    @property
    def checkpoint_bytes(self) -> int:
        """Student, teacher and AdamW's two moments of the student, float32."""
        return 4 * (3 * self.student_weights + self.teacher_weights)


class Counts(Params):
    """The table, by hash of what decides."""

    counts: dict[str, Count]


def settings_hash(document: Mapping[str, Any], key: str) -> str:
    """Names the settings of `pretrain.<key>` on which a count depends."""
    section = section_of(document, "pretrain", key)
    return json_hash({"method": key, **{name: section[name] for name in DECIDING if name in section}})


def count_of(document: Mapping[str, Any], key: str) -> Count:
    """The stored count of these settings, else a new one, kept in the cache.

    Raises:
        StageError: the settings are wrong, or nothing is stored and there is no torch here to count with.
    """
    name = settings_hash(document, key)
    kept = cache_root() / "forecast" / f"{name}.json"
    stored = Counts.model_validate_json(STORED.read_bytes()).counts
    if name in stored:
        return stored[name]
    if not kept.exists():
        print(f"forecast: counting the operations of '{key}', once for these settings", file=sys.stderr, flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(_counted(document, key)) + "\n")
    return Count.model_validate_json(kept.read_bytes())


def _counted(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_text(yaml.safe_dump({name: document[name] for name in ("seed", "pretrain") if name in document}))
        command = [sys.executable, "-m", "bench.flops", "--params", str(file), "--method", key]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        said = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        what = f"the operations of '{key}' cannot be counted, {said}"
        raise StageError(what, where=f"pretrain.{key}", do="see `python -m bench.flops --help`")
    return dict(json.loads(run.stdout.splitlines()[-1]))
