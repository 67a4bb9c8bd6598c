"""Dense prediction of a picture of any size by overlapping square windows, their class scores averaged.

As mmsegmentation's `slide` mode does it (crop 512, stride 341 for ADE20K): the last window of each row and column is
moved back so that it ends with the picture. A picture smaller than the window is padded right and below with 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]  # (B, 3, S, S) -> class scores (B, C, S, S)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows begin along one side."""
    n = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(n)]


def slide(image: Tensor, predict: Predict, window: int, stride: int, batch: int = 8) -> Tensor:
    """Mean class scores over all windows that cover a pixel.

    Args:
        image: (3, H, W), normalised.
        predict: scores of a batch of windows, in the windows' size.
        window, stride: pixels.
        batch: windows per call; changes memory and speed only.

    Returns:
        (C, H, W).
    """
    height, width = image.shape[1:]
    padded = F.pad(image, (0, max(0, window - width), 0, max(0, window - height)))
    corners = [(y, x) for y in starts(height, window, stride) for x in starts(width, window, stride)]
    total: Tensor | None = None
    seen = padded.new_zeros(1, *padded.shape[1:])
    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        scores = predict(torch.stack([padded[:, y : y + window, x : x + window] for y, x in some])).float()
        total = scores.new_zeros(scores.shape[1], *padded.shape[1:]) if total is None else total
        for (y, x), score in zip(some, scores, strict=True):
            total[:, y : y + window, x : x + window] += score
            seen[:, y : y + window, x : x + window] += 1
    assert total is not None
    return (total / seen)[:, :height, :width]
