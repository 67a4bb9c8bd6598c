"""J and F of real or made masks: ours against a literal rendition (full frame, OpenCV dilation by scikit-image's disk).

python -m bench.jf [FOLDER of indexed PNGs ...]

A row per folder (a sequence), or one for made masks; processor time, the two taking turns."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.morphology import disk

from components.evaluate.davis_metrics import object_scores, tolerance_px
from components.evaluate.images import read_index

Pair = tuple[np.ndarray, np.ndarray]


def literal(truth: np.ndarray, predicted: np.ndarray, radius: int) -> tuple[float, float]:
    """The definition, step by step."""
    union = np.sum(truth | predicted)
    j = 1.0 if union == 0 else float(np.sum(truth & predicted) / union)
    t, p = edges(truth), edges(predicted)
    kernel = disk(radius).astype(np.uint8)
    near_t, near_p = cv2.dilate(t.astype(np.uint8), kernel), cv2.dilate(p.astype(np.uint8), kernel)
    n_t, n_p = np.sum(t), np.sum(p)
    if n_t == 0 or n_p == 0:
        return j, float(n_t == n_p)
    precision, recall = np.sum(p * near_t) / n_p, np.sum(t * near_p) / n_t
    return j, float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def edges(mask: np.ndarray) -> np.ndarray:
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    out = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    out[-1] = mask[-1] ^ right[-1]
    out[:, -1] = mask[:, -1] ^ below[:, -1]
    out[-1, -1] = False
    return out


def made(n: int = 12, height: int = 480, width: int = 854) -> list[Pair]:
    """Ellipses of a tenth of the frame, the predicted one a few pixels off."""
    pairs = []
    for i in range(n):
        maps = []
        for shift in (0, 6):
            canvas = np.zeros((height, width), np.uint8)
            centre = (width // 4 + 30 * i + shift, height // 2 - shift)
            cv2.ellipse(canvas, centre, (150, 90 - shift), 15.0 * i, 0, 360, 1, -1)
            maps.append(canvas > 0)
        pairs.append((maps[0], maps[1]))
    return pairs


def real(folder: Path, step: int = 3) -> list[Pair]:
    """Object 1 of each mask against that of the mask `step` frames later."""
    masks = [read_index(file) == 1 for file in sorted(folder.glob("*.png"))]
    return list(zip(masks[:-step], masks[step:], strict=True))


def seconds(score: Callable[..., tuple[float, float]], pairs: list[Pair], radius: int) -> float:
    """Processor time of a pair."""
    start = time.process_time()
    for pair in pairs:
        score(*pair, radius)
    return (time.process_time() - start) / len(pairs)


def compare(name: str, pairs: list[Pair], rounds: int = 5) -> float:
    """Print a row; returns the ratio of the medians."""
    radius = tolerance_px(*pairs[0][0].shape)
    apart = max(abs(a - b) for p in pairs for a, b in zip(literal(*p, radius), object_scores(*p, radius), strict=True))
    times = [(seconds(literal, pairs, radius), seconds(object_scores, pairs, radius)) for _ in range(rounds)]
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    share = math.fsum(float(t.mean()) for t, _ in pairs) / len(pairs)
    print(
        f"{name:16s} {len(pairs)} pairs of {pairs[0][0].shape[1]}x{pairs[0][0].shape[0]}, object {share:.1%}:", end=" "
    )
    print(
        f"literal {slow * 1e3:.2f} ms, ours {fast * 1e3:.2f} ms, {slow / fast:.1f} times; "
        f"largest difference {apart:.0e}"
    )
    return slow / fast


def main() -> None:
    cv2.setNumThreads(1)
    folders = [Path(word) for word in sys.argv[1:]]
    ratios = [compare(folder.name, real(folder)) for folder in folders] or [compare("made", made())]
    print(f"median {statistics.median(ratios):.1f} times")


if __name__ == "__main__":
    main()
