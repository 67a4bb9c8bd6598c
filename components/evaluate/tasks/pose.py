"""Body joints by label propagation on JHMDB, scored by PCK.

The first frame's joints become heat maps on the feature grid, which are carried through the clip and read back. Two
published settings:

- `cropmae` (CropMAE and T-CoRe; T-CoRe ViT-S/16 47.0 at 0.1): 320x320, otherwise as for `vos`; the 5 largest cells are
  averaged.
- `crw` (CRW, arXiv:2006.14613; 59.3 at 0.1 for its ResNet-18, whose grid is finer): 320x320, 7 earlier frames, radius
  12, 10 votes, temperature 0.05; the 3 largest cells.

PCK is a share here, not a percentage. A joint that is lost altogether is left out of the published figure.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from components.common.errors import StageError
from components.evaluate.images import read_rgb
from components.evaluate.layouts.jhmdb import (
    JOINTS,
    PARENTS,
    POSES,
    Clip,
    Joints,
    listed,
    pose_place,
    read_jhmdb,
    read_joints,
    write_joints,
)  # fmt: skip
from components.evaluate.pose_metrics import Lost, decode, distances, heat_maps, pck
from components.evaluate.protocols import CROPMAE, CRW, MASK_KEYS, RuleArgs, input_words
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import beside, to_width, write_gif
from components.evaluate.task import Job, Row, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder

COMMON: dict[str, Any] = {"input_px": [320, 320], "long_side_multiple_px": 1}
DECIMALS = 6  # of the file's pixels; enough for any PCK, and the same figures from the file as from memory


def _of_joints(protocol: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in protocol.items() if key not in MASK_KEYS}


class Args(RuleArgs):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "cropmae": {**_of_joints(CROPMAE), **COMMON, "decode_cells": 5},
        "crw": {**_of_joints(CRW), **COMMON, "context_frames": 7, "decode_cells": 3},
    }

    protocol: Literal["cropmae", "crw"] = "cropmae"
    split: int = Field(1, ge=1, le=3, description="which of the three splits")
    part: Literal["train", "test"] = "test"
    split_folder: str = Field("splits", description="folder of the split lists; sub_splits for sub-JHMDB")
    sigma_cells: float = Field(0.5, gt=0, description="of the first frame's heat maps")
    decode_cells: int = Field(gt=0, description="largest cells that make up a position")
    box_share: float = Field(0.6, gt=0, description="person size / diagonal of the true joints' box")
    thresholds: list[float] = Field([0.1, 0.2, 0.3, 0.4, 0.5], min_length=1, description="the first one ranks encoders")
    lost_joints: Lost = Field("left_out", description="left_out as published, or wrong")


@task("pose", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Propagate every clip's joints, write them as JHMDB's .mat files, score them."""
    clips = read_jhmdb(benchmark, args.split, args.part, args.split_folder)
    predicted = job.cache / "predictions" / POSES
    with job.progress(sum(len(c.frames) for c in clips), "frames") as progress:
        for clip in clips:
            if not (predicted / clip.place).is_file():
                write_joints(predicted / clip.place, joints_of(clip, encoder, args, job))
            progress.update(len(clip.frames))
    shutil.copytree(predicted, job.details / "predictions" / POSES)
    found = [read_joints(predicted / clip.place) for clip in clips]
    for clip, joints in list(zip(clips, found, strict=True))[: args.pictures]:
        animate(job.details / f"{clip.name}.gif", clip, joints, args)
    pairs = [(clip.joints, joints) for clip, joints in zip(clips, found, strict=True)]
    metrics, rows = score(pairs, args)
    return TaskResult(
        protocol=f"{args.protocol} propagation of joints, input {input_words(args)}",
        metrics=metrics,
        primary=f"pck_{args.thresholds[0]}",
        data_variant=f"split {args.split}, {args.part}: {len(clips)} clips, {sum(len(c.frames) for c in clips)} frames",
        rows=rows,
        tables={"clips": [clip_row(clip, *pair, args) for clip, pair in zip(clips, pairs, strict=True)]},
        notes=lost_notes(rows),
    )


def joints_of(clip: Clip, encoder: Encoder, args: Args, job: Job) -> Joints:
    """Propagated positions (T, 15, 2) in the source's pixels; (-1, -1) where a joint was lost."""
    import torch

    from components.evaluate.propagation import propagate
    from components.evaluate.video import Reading, grids, input_size

    reading = Reading(args.input_px, args.long_side_multiple_px, args.pixel_std, "bilinear", False, True)
    size = input_size(clip.height, clip.width, reading, encoder.patch_size)
    grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
    first = heat_maps(clip.joints[0], (clip.height, clip.width), grid, args.sigma_cells)
    labels = torch.from_numpy(first).float().to(job.device)
    features = grids(clip.frames, encoder, size, args.pixel_std, args.effort(job.device))
    maps = [first, *(soft.cpu().double().numpy() for soft in propagate(features, labels, args.rule()))]
    cells = np.stack([decode(soft, args.decode_cells) for soft in maps])
    pixels = cells * np.array([clip.width / grid[1], clip.height / grid[0]])
    return np.where(cells < 0, -1.0, pixels.round(DECIMALS))


def score(pairs: Sequence[tuple[Joints, Joints]], args: Args) -> tuple[dict[str, float], list[Row]]:
    """PCK as an unweighted mean over joints, and a row per joint."""
    apart = np.concatenate([distances(*pair, args.box_share, args.lost_joints) for pair in pairs])
    if np.isnan(apart).all():
        raise StageError("nothing to score: no clip has a second frame with a joint that was found")
    shares = pck(apart, args.thresholds)
    metrics = {f"pck_{t}": float(np.nanmean(line)) for t, line in zip(args.thresholds, shares, strict=True)}
    lost = np.concatenate([(predicted[1:, :, 0] < 0) for _, predicted in pairs]).sum(0)
    scored = (~np.isnan(apart)).sum(0)
    rows: list[Row] = []
    for number, name in enumerate(JOINTS):
        values = {f"pck_{t}": _finite(shares[k, number]) for k, t in enumerate(args.thresholds)}
        rows.append({"joint": name, **values, "scored": int(scored[number]), "lost": int(lost[number])})
    return metrics, rows


def clip_row(clip: Clip, truth: Joints, predicted: Joints, args: Args) -> Row:
    """One clip's PCK, over its joints and frames together."""
    apart = distances(truth, predicted, args.box_share, args.lost_joints)
    told = apart[~np.isnan(apart)]
    shares = {f"pck_{t}": float((told <= t).mean()) if len(told) else None for t in args.thresholds}
    return {"action": clip.action, "clip": clip.name, "frames": len(truth), **shares}


def lost_notes(rows: list[Row]) -> list[str]:
    """How many joints were lost altogether, and so were not scored."""
    lost, told = (sum(row[key] for row in rows) for key in ("lost", "scored"))
    return [f"{lost} joint positions were lost, {told} scored"] if lost else []


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def animate(file: Path, clip: Clip, joints: Joints, args: Args) -> None:
    """Propagated joints beside the true ones, at most `gif_frames` of them."""
    frames = []
    for number in args.shown(len(clip.frames)):
        image = to_width(np.array(read_rgb(clip.frames[number])), args.gif_width_px)
        scale = image.shape[1] / clip.width
        found, truth = (skeleton(image, poses[number], scale) for poses in (joints, clip.joints))
        frames.append(beside(found, truth, headings=("propagated", "truth")))
    write_gif(file, frames, frame_ms=round(args.gif_s * 1000))


def skeleton(image: np.ndarray, joints: Joints, scale: float) -> np.ndarray:
    """The picture with bones in colour (warm on the person's right, cool on the left) and joints in white."""
    out = image.copy()
    points = [(round(x * scale), round(y * scale)) if x >= 0 else None for x, y in joints]
    for child, (parent, name) in enumerate(zip(PARENTS, JOINTS, strict=True)):
        if points[child] and points[parent]:
            colour = (
                (255, 140, 0)
                if name.startswith("right")
                else (0, 180, 255)
                if name.startswith("left")
                else (255, 255, 0)
            )
            cv2.line(out, points[child], points[parent], colour, 2, cv2.LINE_AA)
    for point in filter(None, points):
        cv2.circle(out, point, 2, (255, 255, 255), -1, cv2.LINE_AA)
    return out


def _score(args: argparse.Namespace) -> dict[str, Any]:
    clips = listed(args.gt / args.split_folder, args.split, "test")
    settings = Args.model_validate({"lost_joints": args.lost_joints})
    inside = args.pred / POSES
    predicted = inside if inside.is_dir() else args.pred
    pairs = [read_pair(args.gt / POSES / pose_place(*clip), predicted / pose_place(*clip)) for clip in clips]
    metrics, rows = score(pairs, settings)
    return {"metrics": metrics, "joints": rows}


def read_pair(truth: Path, predicted: Path) -> tuple[Joints, Joints]:
    """True and predicted positions of a clip; frames beyond the last true pose are left out."""
    known, found = read_joints(truth), read_joints(predicted)
    if len(found) < len(known):
        raise StageError(f"{len(found)} predicted poses, {len(known)} true ones", where=predicted)
    return known, found[: len(known)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="benchmark in JHMDB layout")
    what = "folder of <class>/<clip>/joint_positions.mat; a lost joint is at (0, 0)"
    parser.add_argument("--pred", type=Path, required=True, help=what)
    parser.add_argument("--split", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--split-folder", default="splits")
    parser.add_argument("--lost-joints", default="left_out", choices=("left_out", "wrong"))


if __name__ == "__main__":
    raise SystemExit(score_main("pose", "PCK of predicted joints", _arguments, _score))
