"""What a trained detector sees, as COCO's official results; kept part by part so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.common.encoder import Encoder
from components.common.outputs import write_text
from components.evaluate.cascade import Detections
from components.evaluate.detection_data import read_picture, resize_image, scaled_size
from components.evaluate.detection_train import padded
from components.evaluate.detector import Detector
from components.evaluate.images import ahead
from components.evaluate.layouts.coco import CocoPicture
from components.evaluate.task import Job

Result = dict[str, Any]


@dataclass(frozen=True)
class Looking:
    """How pictures are shown to the detector; see the task's parameters of the same names."""

    test_short_px: int
    test_long_px: int
    mask_threshold: float
    batch_images: int
    workers: int


def detect_all(
    detector: Detector,
    pictures: Sequence[CocoPicture],
    categories: Mapping[int, int],
    encoder: Encoder,
    how: Looking,
    job: Job,
) -> list[Result]:
    """Detections in all pictures.

    Args:
        detector: trained; set to eval mode.
        pictures: each goes through the detector alone; `how.batch_images` of them are one part on disk.
        categories: category id of each label.
        encoder: whose normalisation of pictures holds.
    """
    detector.eval()
    folder = job.cache / "results"
    starts = range(0, len(pictures), how.batch_images)
    parts = {start: folder / f"{start:08d}.json" for start in starts}
    todo = [start for start in starts if not parts[start].exists()]
    pixels = ahead(read_picture, [p for s in todo for p in pictures[s : s + how.batch_images]], how.workers)
    with job.progress(sum(len(pictures[s : s + how.batch_images]) for s in todo), "img") as progress:
        for start in todo:
            results: list[Result] = []
            for picture in pictures[start : start + how.batch_images]:
                results += results_of(detector, picture, next(pixels), categories, encoder, how, job.device)
                progress.update(1)
            write_text(parts[start], json.dumps(results))
    return [result for part in parts.values() for result in json.loads(part.read_text(encoding="utf-8"))]


def results_of(
    detector: Detector,
    picture: CocoPicture,
    pixels: NDArray[np.uint8],
    categories: Mapping[int, int],
    encoder: Encoder,
    how: Looking,
    device: str,
) -> list[Result]:
    """Detections in one picture, in its own pixels, best first."""
    size = scaled_size(picture.height, picture.width, how.test_short_px, how.test_long_px)
    images = padded([resize_image(pixels, size)], detector.backbone.multiple, encoder, device)
    (found,) = detector.detect(images, [size])
    return official(found, size, picture, categories, how.mask_threshold)


def official(
    found: Detections, size: tuple[int, int], picture: CocoPicture, categories: Mapping[int, int], threshold: float
) -> list[Result]:
    """Detections in an input of `size` (height, width) as results of the picture it shows."""
    from pycocotools import mask

    scale = torch.tensor([picture.width / size[1], picture.height / size[0]] * 2)
    boxes, results = found.boxes.float().cpu() * scale, []
    scores, labels = found.scores.tolist(), found.labels.tolist()
    for box, score, label, soft in zip(boxes, scores, labels, found.masks.cpu(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        code = mask.encode(np.asfortranarray(paste(soft, box, picture.height, picture.width) >= threshold, np.uint8))
        results.append(
            {
                "image_id": picture.id,
                "category_id": categories[label],
                "score": score,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": {"size": [picture.height, picture.width], "counts": code["counts"].decode("ascii")},
            }
        )
    return results


def paste(soft: Tensor, box: Tensor, height: int, width: int) -> NDArray[np.float32]:
    """A mask (m, m) of a box as a map (height, width): bilinear between its cells' centres, 0 outside the box."""
    x0, y0, x1, y1 = (float(value) for value in box)
    left, right = max(0, int(np.floor(x0))), min(width, int(np.ceil(x1)))
    top, bottom = max(0, int(np.floor(y0))), min(height, int(np.ceil(y1)))
    out = np.zeros((height, width), np.float32)
    if left < right and top < bottom and x0 < x1 and y0 < y1:
        xs = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
        ys = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
        out[top:bottom, left:right] = F.grid_sample(soft[None, None].float(), grid, align_corners=False)[0, 0].numpy()
    return out
