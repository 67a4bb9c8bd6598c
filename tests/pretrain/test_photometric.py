"""Colour operations against torchvision's and Pillow's, per operation, on drawn pictures and real frames.

Tolerances are in levels of 255. The measured mean differences they come from (drawn / real): brightness 0.4 / 0.4,
contrast 0.6 / 0.6, saturation 0.6 / 0.6 (torchvision cuts decimals off where we round), hue 0.7 / 0.2, grey 0.5 / 0.5,
blur and solarise 0.0; blur against Pillow's chain of boxes 0.6 / 0.7, hue against Pillow's 1.7 / 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pictures
import pytest
import torch
import torchvision.transforms.functional as pil
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageFilter, ImageOps

from components.pretrain.photometric import (
    Colour,
    Jitter,
    apply_colour,
    blur,
    draw_colour,
    scale_colours,
    shift_hue,
    solarise,
)
from components.pretrain.plan import Photometric

Operation = Callable[[np.ndarray], np.ndarray]
NOTHING = Colour(None, False, None, None)


@pytest.fixture(params=["drawn", "real"])
def images(request: pytest.FixtureRequest) -> list[np.ndarray]:
    return pictures.drawn() if request.param == "drawn" else pictures.real()


def tensor(operation: Callable[[torch.Tensor], torch.Tensor]) -> Operation:
    return lambda image: operation(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def pillow(operation: Callable[[Image.Image], Image.Image]) -> Operation:
    return lambda image: np.asarray(operation(Image.fromarray(image)))


def distance(images: list[np.ndarray], ours: Operation, theirs: Operation) -> tuple[float, int]:
    """Mean and largest difference in levels of 255."""
    apart = [np.abs(ours(image).astype(int) - theirs(image).astype(int)) for image in images]
    return float(np.mean([a.mean() for a in apart])), max(int(a.max()) for a in apart)


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_factor_alone_is_torchvisions_to_one_level(images: list[np.ndarray], name: str, factor: float) -> None:
    jitter = Jitter(1.0, 1.0, 1.0, 0.0)._replace(**{name: factor})
    theirs = tensor(lambda x: getattr(tv, f"adjust_{name}")(x, factor))
    mean, largest = distance(images, lambda image: scale_colours(image, jitter), theirs)
    assert largest <= 1 and mean < 0.7


def test_three_factors_at_once_cost_one_clamp(images: list[np.ndarray]) -> None:
    """Against torchvision's three operations, and against the same in floats, where only the clamps differ.

    Measured: 2.2 drawn / 1.7 real, and 1.2 / 0.6 in floats; two orders of torchvision's differ by 1.1 / 0.6.
    """
    rng = np.random.default_rng(0)
    rounded, exact = [], []
    for factors in rng.uniform((0.6, 0.6, 0.8), (1.4, 1.4, 1.2), (15, 3)).tolist():
        for image in images:
            ours = scale_colours(image, Jitter(*factors, 0.0)).astype(float)
            rounded.append(np.abs(ours - tensor(partial(in_turn, factors=factors))(image)).mean())
            exact.append(np.abs(ours - one_by_one(image, *factors)).mean())
    assert np.mean(rounded) < 2.6
    assert np.mean(exact) < 1.4


def in_turn(x: torch.Tensor, factors: list[float]) -> torch.Tensor:
    brightness, contrast, saturation = factors
    return tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(x, brightness), contrast), saturation)


def one_by_one(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """torchvision's three operations, clamped after each but never rounded: float (H, W, 3)."""
    weights = np.array([0.299, 0.587, 0.114])
    x = np.clip(image * brightness, 0, 255)
    x = np.clip(contrast * x + (1 - contrast) * (x @ weights).mean(), 0, 255)
    return np.clip(saturation * x + (1 - saturation) * (x @ weights)[..., None], 0, 255)


@pytest.mark.parametrize("turns", [-0.1, -0.03, 0.05, 0.1, 0.5])
def test_hue(images: list[np.ndarray], turns: float) -> None:
    def ours(image: np.ndarray) -> np.ndarray:
        return shift_hue(image, turns)

    mean, _ = distance(images, ours, tensor(lambda x: tv.adjust_hue(x, turns)))
    assert mean < 1.0
    mean, _ = distance(images, ours, pillow(lambda x: pil.adjust_hue(x, turns)))
    assert mean < 2.0


def test_hue_keeps_value_and_greys(images: list[np.ndarray]) -> None:
    turned = shift_hue(images[0], 0.25)
    assert np.abs(turned.max(axis=2).astype(int) - images[0].max(axis=2)).max() <= 1
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(shift_hue(grey, 0.25), grey)
    assert shift_hue(images[0], 0.0) is images[0]


def test_grey(images: list[np.ndarray]) -> None:
    theirs = tensor(lambda x: tv.rgb_to_grayscale(x, num_output_channels=3))
    mean, largest = distance(images, lambda image: apply_colour(image, NOTHING._replace(grey=True)), theirs)
    assert largest <= 1 and mean < 0.7


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.2, 2.0])
def test_blur(images: list[np.ndarray], sigma: float) -> None:
    def ours(image: np.ndarray) -> np.ndarray:
        return blur(image, sigma)

    wide = 2 * 12 + 1  # 6 sigma of the widest: what the three sigma of ours leave out would show
    assert distance(images, ours, tensor(lambda x: tv.gaussian_blur(x, [wide, wide], [sigma, sigma])))[1] <= 1
    mean, _ = distance(images, ours, pillow(lambda x: x.filter(ImageFilter.GaussianBlur(sigma))))
    assert mean < 1.0


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0])
def test_blur_with_nine_taps_is_torchvisions(images: list[np.ndarray], sigma: float) -> None:
    """T-CoRe's kernel; with the widest sigma it differs from a whole Gaussian."""

    def ours(image: np.ndarray) -> np.ndarray:
        return apply_colour(image, NOTHING._replace(blur_sigma_px=sigma, blur_taps=9))

    assert distance(images, ours, tensor(lambda x: tv.gaussian_blur(x, [9, 9], [sigma, sigma])))[1] <= 1
    assert (distance(images, ours, lambda image: blur(image, sigma))[1] > 1) == (sigma == 2.0)


@pytest.mark.parametrize("threshold", [1, 128, 255])
def test_solarise_is_exact(images: list[np.ndarray], threshold: int) -> None:
    theirs = pillow(lambda x: ImageOps.solarize(x, threshold))
    assert distance(images, lambda image: solarise(image, threshold), theirs) == (0.0, 0)


def test_operations_follow_dinos_order_and_leave_their_input_alone() -> None:
    image = pictures.drawn(1)[0]
    before = image.copy()
    jitter = Jitter(1.2, 0.8, 1.1, 0.07)
    result = apply_colour(image, Colour(jitter, True, 1.3, 100))
    step = apply_colour(shift_hue(scale_colours(image, jitter), 0.07), NOTHING._replace(grey=True))
    assert np.array_equal(result, solarise(blur(step, 1.3), 100))  # grey in one channel equals grey in three
    assert np.array_equal(image, before)
    assert apply_colour(image, NOTHING) is image


def test_draws_have_the_recipes_rates_and_ranges() -> None:
    recipe = Photometric(blur_p=0.3, solarise_p=0.2, solarise_threshold=99)
    rng = np.random.default_rng(0)
    draws = [draw_colour(recipe, rng) for _ in range(20_000)]
    jitters = np.array([d.jitter for d in draws if d.jitter])
    sigmas = np.array([d.blur_sigma_px for d in draws if d.blur_sigma_px is not None])
    rates = [len(jitters), sum(d.grey for d in draws), len(sigmas), sum(d.solarise_from == 99 for d in draws)]
    assert np.allclose(np.array(rates) / len(draws), [0.8, 0.2, 0.3, 0.2], atol=0.012)  # four standard deviations
    # uniform in its range: the extremes touch the ends and the mean is the middle
    assert np.allclose(jitters.min(axis=0), [0.6, 0.6, 0.8, -0.1], atol=0.002)
    assert np.allclose(jitters.max(axis=0), [1.4, 1.4, 1.2, 0.1], atol=0.002)
    assert np.allclose(jitters.mean(axis=0), [1, 1, 1, 0], atol=0.01)
    assert np.allclose([sigmas.min(), sigmas.mean(), sigmas.max()], [0.1, 1.05, 2.0], atol=0.03)


def test_one_operation_of_the_jitter() -> None:
    """TimeT's released loader applies the last of four shuffled operations alone."""
    rng = np.random.default_rng(0)
    recipe = Photometric(0.8, 0.8, 0.8, 0.2, jitter_p=1.0, one_jitter_op=True)
    jitters = np.array([draw_colour(recipe, rng).jitter for _ in range(2000)])
    moved = jitters != [1, 1, 1, 0]
    assert (moved.sum(axis=1) == 1).all()
    assert np.allclose(moved.mean(axis=0), 0.25, atol=0.04)


def test_a_changed_probability_moves_no_other_draw() -> None:
    one = draw_colour(Photometric(blur_p=0.0), np.random.default_rng(7))
    two = draw_colour(Photometric(blur_p=1.0), np.random.default_rng(7))
    assert one == two._replace(blur_sigma_px=None)
    assert two.blur_sigma_px is not None
