"""What tasks read of an encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from components.common.encoder import load_encoder
from components.evaluate.features import image_features, mean_features, patch_features


@torch.inference_mode()
def test_the_mean_is_of_patches_and_without_the_class_token(model: Path) -> None:
    encoder = load_encoder(model)
    pixels = torch.randint(0, 256, (3, 32, 40, 3), dtype=torch.uint8)
    grid, found = patch_features(encoder)(pixels), mean_features(encoder)(pixels)
    assert grid.shape == (3, 4, 5, 24)
    for image, mean in zip(grid, found, strict=True):
        torch.testing.assert_close(mean, sum(image[row, column] for row in range(4) for column in range(5)) / 20)
    assert not torch.allclose(found, image_features(encoder)(pixels))
