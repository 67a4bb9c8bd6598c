"""Object detection and instance segmentation on COCO: the encoder is fine-tuned under Cascade Mask R-CNN.

Two protocols, each with every constant among the parameters; figures of one cannot be set beside those of the other:

- `1x`: iBOT's (arXiv:2111.07832; released configuration and command of its ViT-S/16: 49.4 box AP, 42.6 mask AP), 12
  epochs of 32 pictures with short sides up to 800.
- `mini`: this project's own, for comparisons that cost a fiftieth: Mask R-CNN (one stage), half the resolution, 3
  epochs of 16 pictures.

AP is pycocotools'. Crowds are not learnt from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from components.common.errors import StageError
from components.common.outputs import write_text
from components.evaluate import coco_score
from components.evaluate.box_pictures import draw_instances
from components.evaluate.detection_data import read_picture, usable
from components.evaluate.layouts.coco import Coco, read_coco, read_instances
from components.evaluate.score_cli import score_main
from components.evaluate.sheets import comparison_sheet, spread
from components.evaluate.task import Job, TaskParams, TaskResult, task

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.detector import Detector

LEAST_TRAINING_SIDE_PX = 32  # smaller pictures are left out of training (mmdetection)


class Args(TaskParams):
    """`protocol` sets the constants without a default here; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {
        "1x": {
            "heads": "cascade", "position_px": [800, 1008], "batch_size": 32, "epochs": 12, "drop_epochs": [8, 11],
            "warmup_iterations": 500, "short_px": [*range(480, 801, 32)], "long_px": 1333,
            "crop_short_px": [400, 500, 600], "crop_px": [384, 600], "test_short_px": 800, "test_long_px": 1333,
        },
        "mini": {
            "heads": "single", "position_px": [400, 504], "batch_size": 16, "epochs": 3, "drop_epochs": [2],
            "warmup_iterations": 500, "short_px": [*range(240, 401, 16)], "long_px": 667,
            "crop_short_px": [200, 250, 300], "crop_px": [192, 300], "test_short_px": 400, "test_long_px": 667,
        },
    }  # fmt: skip

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {
        "checkpointing", "log_every", "checkpoint_every_s", "shown_score",
    }  # fmt: skip

    protocol: Literal["1x", "mini"] = "1x"
    train_set: str = "train2017"
    val_set: str = "val2017"

    pyramid: Literal["taps", "last"] = Field("taps", description="four blocks (iBOT), or the last alone (ViTDet)")
    tap_blocks: list[int] | None = Field(None, description="four blocks from 0; null: 3, 5, 7, 11 of 12, to scale")
    tap_norm: bool = Field(False, description="the final norm on every tap")
    position_px: tuple[int, int] | None = Field(description="height, width whose grid of positions is learnt")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the last block, from 0 in the first")
    channels: int = Field(256, gt=0, description="of the pyramid and the heads' convolutions")
    anchor_scale: float = Field(8, gt=0, description="side of an anchor in strides")
    anchor_ratios: list[float] = Field([0.5, 1.0, 2.0], min_length=1, description="height / width")
    rpn_iou: tuple[float, float] = Field((0.7, 0.3), description="an anchor is an object above, ground below")
    rpn_samples: int = Field(256, gt=0, description="anchors learnt from, per picture")
    rpn_before_nms: tuple[int, int] = Field((2000, 1000), description="proposals per map: training, testing")
    rpn_after_nms: tuple[int, int] = Field((2000, 1000), description="proposals per picture: training, testing")
    rpn_nms_iou: float = Field(0.7, gt=0, le=1)

    heads: Literal["cascade", "single"] = Field(description="all of the stages below, or the first alone")
    stage_iou: list[float] = Field([0.5, 0.6, 0.7], min_length=1)
    stage_weight: list[float] = Field([1.0, 0.5, 0.25], min_length=1)
    stage_std: list[tuple[float, float, float, float]] = Field(
        [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)], min_length=1
    )
    roi_samples: int = Field(512, gt=0, description="regions learnt from, per picture and stage")
    positive_share: float = Field(0.25, gt=0, lt=1, description="largest share of objects among them")
    box_convs: int = Field(4, ge=0)
    box_fc: int = Field(1024, gt=0)
    mask_convs: int = Field(4, ge=0)
    class_agnostic: bool = Field(False, description="one box regressor for all classes")
    giou_weight: float = Field(10.0, gt=0)
    average: Literal["logits", "probabilities"] = Field("logits", description="what of the stages is averaged")
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms_iou: float = Field(0.5, gt=0, le=1)
    detections: int = Field(100, gt=0, description="per picture")
    mask_threshold: float = Field(0.5, gt=0, lt=1)

    flip: float = Field(0.5, ge=0, le=1)
    short_px: list[int] = Field(min_length=1, description="short sides drawn from, the long one at most long_px")
    long_px: int = Field(gt=0)
    crop_share: float = Field(0.5, ge=0, le=1, description="pictures that are resized, cropped and resized again")
    crop_short_px: list[int] = Field(min_length=1, description="short sides before the crop")
    crop_px: tuple[int, int] = Field(description="least and largest side of a crop")
    test_short_px: int = Field(gt=0)
    test_long_px: int = Field(gt=0)

    epochs: int = Field(ge=0)
    drop_epochs: list[int] = Field(description="the rate is multiplied by drop_factor at their start")
    drop_factor: float = Field(0.1, gt=0)
    warmup_iterations: int = Field(ge=0)
    warmup_ratio: float = Field(0.001, ge=0, le=1)
    batch_size: int = Field(gt=0)
    images_per_pass: int | None = Field(None, gt=0, description="null: the whole batch; less memory, other batch norm")
    lr: float = Field(1e-4, gt=0, description="AdamW's, not scaled with the batch")
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.8, gt=0, le=1)
    decay_positions: bool = Field(True, description="weight decay on positions and tokens, as the released code has")
    clip_norm: float | None = Field(None, gt=0)
    half: bool = Field(True, description="bfloat16 for encoder, pyramid and heads on a GPU (published: float16)")
    mask_size: coco_score.MaskSize = Field("mask", description="area by which a detected mask is small or large")
    checkpointing: bool = Field(True, description="blocks are computed twice to save memory")
    log_every: int = Field(50, gt=0, description="iterations")
    checkpoint_every_s: float = Field(300, ge=0)
    shown_score: float = Field(0.5, ge=0, le=1, description="least score of a detection in the picture")

    @model_validator(mode="after")
    def _consistent(self) -> Args:
        if not len(self.stage_iou) == len(self.stage_weight) == len(self.stage_std):
            raise ValueError("stage_iou, stage_weight and stage_std must have one entry per stage each")
        if self.tap_blocks is not None and len(self.tap_blocks) != 4:
            raise ValueError("tap_blocks names four blocks")
        return self


@task("coco", Args)
def run(encoder: Encoder, benchmark: Path, args: Args, job: Job) -> TaskResult:
    """Train on one split, detect in the other, score it."""
    from components.evaluate.detection_predict import Looking, detect_all

    train, val = read_coco(benchmark, args.train_set), read_coco(benchmark, args.val_set)
    if train.names != val.names:
        raise StageError("training and validation annotations have different categories", where=benchmark)
    categories = dict(enumerate(train.names, start=1))
    detector = make_detector(encoder, len(categories), args, job)
    curve = fit(detector, train, categories, encoder, args, job)
    found = detect_all(detector, val.pictures, categories, encoder, options(Looking, args), job)
    write_text(job.details / "results.json", json.dumps(found))
    figures, rows = coco_score.score(val, found, args.mask_size)
    draw(job.details / "detections.png", val, found, args)
    return TaskResult(
        protocol=f"{args.protocol} {args.heads}, short side {args.test_short_px}, {args.epochs} epochs of "
        f"{args.batch_size}",
        metrics=figures,
        primary="box_ap",
        data_variant=f"{args.train_set}/{args.val_set}: {len(train.pictures)} train, {len(val.pictures)} val pictures, "
        f"{val.n_objects} val objects, {len(categories)} classes",
        rows=rows,
        tables={"training": curve} if curve else {},
        notes=[f"pictures are padded right and below to multiples of {detector.backbone.multiple} pixels"],
    )


Options = TypeVar("Options")


def options(kind: type[Options], args: Args, **more: Any) -> Options:
    """The parameters that one part of the detector takes, by name."""
    names = [field.name for field in fields(kind) if field.name not in more]  # type: ignore[arg-type]
    return kind(**{name: getattr(args, name) for name in names}, **more)


def make_detector(encoder: Encoder, n_classes: int, args: Args, job: Job) -> Detector:
    """The detector at its start: the encoder's weights, all else drawn from the seed."""
    import torch

    from components.evaluate.cascade import RoiOptions
    from components.evaluate.detection_train import fine_tuned_copy
    from components.evaluate.detector import Detector, PyramidOptions, RpnOptions

    n = len(args.stage_iou) if args.heads == "cascade" else 1
    stages = {name: getattr(args, name)[:n] for name in ("stage_iou", "stage_weight", "stage_std")}
    vit = fine_tuned_copy(encoder, args.drop_path, args.position_px).cpu()
    vit.set_grad_checkpointing(args.checkpointing)
    parts = options(PyramidOptions, args), options(RpnOptions, args), options(RoiOptions, args, **stages)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        return Detector(vit, n_classes, *parts, half=args.half).to(job.device)


def fit(
    detector: Detector, train: Coco, categories: dict[int, int], encoder: Encoder, args: Args, job: Job
) -> list[dict[str, Any]]:
    """Train on the pictures that show an object; returns the curve of the losses."""
    from components.evaluate.detection_data import Augmentation
    from components.evaluate.detection_train import Schedule, TrainingSet
    from components.evaluate.detection_train import train as learn

    shown = [(picture, usable(train.objects[picture.id])) for picture in train.pictures]
    kept = [(p, notes) for p, notes in shown if notes and min(p.height, p.width) >= LEAST_TRAINING_SIDE_PX]
    if not kept:
        raise StageError(f"no annotation of {args.train_set} can be learnt from: each needs a box and a mask")
    data = TrainingSet(kept, {category: label for label, category in categories.items()})
    schedule, look = options(Schedule, args), options(Augmentation, args)
    return learn(detector, data, encoder, schedule, look, args.seed, args.workers, job)


def draw(file: Path, val: Coco, found: list[dict[str, Any]], args: Args) -> None:
    """Pictures with objects, spread over the split: what there is beside what is found, boxes, masks and classes.

    Where nothing scores as much as is shown, the best that was found is.
    """
    rows = []
    shown = [picture for picture in val.pictures if val.objects[picture.id]]
    for i in spread(len(shown), args.pictures):
        picture = shown[i]
        own = sorted((r for r in found if r["image_id"] == picture.id), key=lambda r: -r["score"])
        seen = [r for r in own if r["score"] >= args.shown_score] or own[:1]
        image = read_picture(picture)
        pair = (draw_instances(image, notes, val.names) for notes in (val.objects[picture.id], seen))
        rows.append((image, *pair))
    if rows:
        headings = ("image", "truth", f"found: score from {args.shown_score:g}, or else the best")
        comparison_sheet(headings, rows, height=320).save(file)


def _score(args: argparse.Namespace) -> dict[str, Any]:
    truth = read_instances(args.gt)
    found = coco_score.read_results(args.pred, truth)
    figures, rows = coco_score.score(truth, found, args.mask_size)
    return {"metrics": figures, "classes": rows, "n": len(found)}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", type=Path, required=True, help="annotations, instances_*.json")
    parser.add_argument("--pred", type=Path, required=True, help="detections in COCO's results format (JSON)")
    what = "area that makes a detected mask small, medium or large: its own, or its box's as loadRes has it"
    parser.add_argument("--mask-size", choices=("mask", "box"), default="mask", help=what)


if __name__ == "__main__":
    raise SystemExit(score_main("coco", "box and mask AP of detections", _arguments, _score))
