"""DINO's views as data (arXiv:2104.14294, appendix C; BYOL's colour operations)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from components.common.config import Params
from components.pretrain.plan import Photometric

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
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low} to {high}, the first must not be larger")
        return self


def global_recipes(n_views: int) -> tuple[Photometric, ...]:
    """One recipe a global view: the first is always blurred, the others are blurred and solarised at times."""
    return (FIRST_GLOBAL, *(OTHER_GLOBAL,) * (n_views - 1))
