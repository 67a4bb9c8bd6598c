"""DINO's views as data (arXiv:2104.14294, appendix C; BYOL's colour operations)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from components.common.config import Params
from components.common.errors import StageError
from components.pretrain.plan import ClipCrop, Photometric

Share = Annotated[float, Field(gt=0, le=1)]

FIRST_GLOBAL = Photometric(blur_p=1.0)
OTHER_GLOBAL = Photometric(blur_p=0.1, solarise_p=0.2)
LOCAL = Photometric(blur_p=0.5)


class CropArgs(Params):
    """Sizes and numbers of the views. Scales are ranges of the crop's area as a share of the image."""

    global_size_px: int = Field(224, gt=0)
    global_scale: tuple[Share, Share] = (0.4, 1.0)
    local_size_px: int = Field(96, gt=0)
    local_scale: tuple[Share, Share] = (0.05, 0.4)
    local_crops: int = Field(8, ge=0, description="local views a sample")

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name in type(self).model_fields.keys() & {"global_scale", "local_scale", "clip_scale"}:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low} to {high}, the first must not be larger")
        return self


class ClipCropArgs(CropArgs):
    """Views cut from one crop that all frames of a draw share."""

    clip_crop_px: int = Field(300, gt=0, description="side of the shared crop")
    clip_scale: tuple[Share, Share] = (0.2, 1.0)

    def clip_crop(self) -> ClipCrop:
        """The shared crop, as the plan states it."""
        return ClipCrop(self.clip_crop_px, self.clip_scale)


def global_recipes(n_views: int) -> tuple[Photometric, ...]:
    """One recipe a global view: the first is always blurred, the others are blurred and solarised at times."""
    return (FIRST_GLOBAL, *(OTHER_GLOBAL,) * (n_views - 1))


def check_sizes(args: CropArgs, patch_size: int) -> None:
    """Refuse views that are no whole number of patches wide."""
    sizes = {"global_size_px": args.global_size_px} | (
        {"local_size_px": args.local_size_px} if args.local_crops else {}
    )
    for name, size in sizes.items():
        check_size(name, size, patch_size)


def check_size(name: str, size: int, patch_size: int) -> None:
    """Refuse a view that is no whole number of patches wide."""
    if size % patch_size:
        near = max(round(size / patch_size), 1) * patch_size
        what = f"'{name}' = {size} is no multiple of the encoder's {patch_size}-pixel patches"
        raise StageError(what, where="pretrain.args", do=f"take {near}")
