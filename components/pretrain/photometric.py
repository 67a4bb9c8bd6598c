"""Colour operations of a view on uint8 RGB images (H, W, 3), with OpenCV.

The recipe is DINO's (arXiv:2104.14294, after BYOL): jitter, grey, blur, solarise, in that order. All random numbers of
a view are drawn first, as a `Colour`; applying one is a pure function.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from components.pretrain.plan import Photometric

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and OpenCV
# A Gaussian keeps 0.27 % of its mass beyond 3 sigma, less than one level of 255; the 9 taps that are often used with
# sigma up to 2 drop 2.4 % and make the widest blurs narrower than the recipe says.
BLUR_REACH_SIGMAS = 3.0


class Jitter(NamedTuple):
    """Factors of brightness, contrast and saturation (1 = unchanged), shift of hue in turns (0 = unchanged)."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


NO_JITTER = Jitter(1.0, 1.0, 1.0, 0.0)


class Colour(NamedTuple):
    """The colour draws of one view; None and False leave the image as it is."""

    jitter: Jitter | None
    grey: bool
    blur_sigma_px: float | None
    solarise_from: int | None
    blur_taps: int | None = None


def draw_colour(recipe: Photometric, rng: np.random.Generator) -> Colour:
    """Draw what happens to one view. How many numbers it takes hangs on no probability, so none moves other draws."""
    jitter, b, c, s, h, grey, blur, sigma, solarise = rng.random(9).tolist()
    factors = Jitter(
        _within(max(0.0, 1 - recipe.brightness), 1 + recipe.brightness, b),
        _within(max(0.0, 1 - recipe.contrast), 1 + recipe.contrast, c),
        _within(max(0.0, 1 - recipe.saturation), 1 + recipe.saturation, s),
        _within(-recipe.hue, recipe.hue, h),
    )
    if recipe.one_jitter_op:
        kept = int(rng.integers(len(factors)))
        factors = NO_JITTER._replace(**{Jitter._fields[kept]: factors[kept]})
    return Colour(
        jitter=factors if jitter < recipe.jitter_p else None,
        grey=grey < recipe.grey_p,
        blur_sigma_px=_within(*recipe.blur_sigma_px, sigma) if blur < recipe.blur_p else None,
        solarise_from=recipe.solarise_threshold if solarise < recipe.solarise_p else None,
        blur_taps=recipe.blur_taps,
    )


def with_other_sigma(colour: Colour, recipe: Photometric, rng: np.random.Generator) -> Colour:
    """The same draws but for the blur's sigma, where there is a blur."""
    sigma = _within(*recipe.blur_sigma_px, rng.random())
    return colour if colour.blur_sigma_px is None else colour._replace(blur_sigma_px=sigma)


def apply_colour(image: np.ndarray, colour: Colour) -> np.ndarray:
    """Apply the draws to an image; returns a new array, or `image` itself when nothing was drawn."""
    if colour.jitter is not None:
        image = shift_hue(scale_colours(image, colour.jitter), colour.jitter.hue)
    if colour.grey:  # one channel from here on: blur and solarise do the same to three equal ones
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if colour.blur_sigma_px is not None:
        image = blur(image, colour.blur_sigma_px, colour.blur_taps)
    if colour.solarise_from is not None:
        image = solarise(image, colour.solarise_from)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if colour.grey else image


def scale_colours(image: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Brightness, then contrast about the mean luma, then saturation, as one 3x4 matrix.

    torchvision clamps to 0..255 after each of the three and draws their order at random; here they are clamped once, in
    a fixed order. On real frames that costs 0.6 levels of 255 on average, as much as another order does (0.6). The
    measured difference is 1.7, because torchvision also cuts off the decimals three times.
    """
    red, green, blue, _ = cv2.mean(image)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    gain, s = jitter.brightness * jitter.contrast, jitter.saturation
    r, g, b = (gain * (1 - s) * weight for weight in LUMA)
    keep, offset = gain * s, (1 - jitter.contrast) * jitter.brightness * luma
    matrix = np.array([[r + keep, g, b, offset], [r, g + keep, b, offset], [r, g, b + keep, offset]], np.float32)
    return cv2.transform(image, matrix)


def shift_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn the hue by `turns` of the colour circle, in 256 steps; uint8 addition wraps round as hue does."""
    steps = round(turns * 256) % 256
    if steps == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    rows += _hue_steps(steps, image.shape[1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def blur(image: np.ndarray, sigma_px: float, taps: int | None = None) -> np.ndarray:
    """Gaussian blur, mirrored at the edges; a kernel of `taps` pixels, else as wide as three sigma need.

    `cv2.sepFilter2D` takes half the time of `cv2.GaussianBlur`, and float weights instead of 8-bit ones.
    """
    taps = taps or 2 * math.ceil(BLUR_REACH_SIGMAS * sigma_px) + 1
    kernel = cv2.getGaussianKernel(taps, sigma_px, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, kernel, kernel)


def solarise(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the values from `threshold` up, as PIL.ImageOps.solarize."""
    return cv2.LUT(image, _solarise_table(threshold))


@functools.cache
def _hue_steps(steps: int, width: int) -> np.ndarray:
    """What is added to a row of HSV pixels; added to whole rows, numpy takes a quarter of the time of a strided add."""
    return np.tile(np.array([steps, 0, 0], np.uint8), width)


@functools.cache
def _solarise_table(threshold: int) -> np.ndarray:
    levels = np.arange(256)
    return np.where(levels < threshold, levels, 255 - levels).astype(np.uint8)


def _within(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
