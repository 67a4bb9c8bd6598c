"""Views of objects: what ODIS asks of the loader, and pictures of what it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.pretrain.blocks.crops import LOCAL, global_recipes
from components.pretrain.blocks.masked_distillation import MaskedArgs
from components.pretrain.blocks.pictures import pixels
from components.pretrain.plan import Crop, ObjectTargets

GLOBAL_VIEWS = 2
OUTLINE = (1.0, 0.85, 0.0)
PICTURES = 4  # samples shown


class ObjectViewArgs(MaskedArgs):
    """Where objects come from, and how views are cut around them (values of the Cross-Time VidOR object run)."""

    objects: Literal["index", "teacher", "auto"] = Field(
        "index", description="annotated ones, the teacher's, or the teacher's where a sample has no annotated one"
    )
    object_by: Literal["track", "category"] = Field("track", description="category: all of a kind are one object")
    object_choice: Literal["largest", "random"] = Field(
        "largest", description="of those in view; released: random_area"
    )
    object_min_share: float = Field(0.04, ge=0, le=1, description="of the first large view that its object must cover")
    object_tries: tuple[int, int] = Field((10, 20), description="boxes tried for the first large view, for each other")
    object_aware_locals: bool = Field(False, description="small views are drawn anew, too, until they show the object")
    object_margin_patches: int = Field(1, ge=0, description="patches by which an object's box grows")
    object_margin_draw: Literal["fixed", "random"] = Field("fixed", description="random: 0 to the margin; index only")

    object_shape: Literal["box", "silhouette"] = Field("box", description="with label maps; index only")

    @property
    def frame_draw(self) -> str:
        """The index's draw of single frames: those with an object where only such count."""
        return "object_frame" if self.objects == "index" else "frame"

    @property
    def pair_draw(self) -> str:
        """The index's draw of pairs: those that share an object where only such count."""
        return "object_pair" if self.objects == "index" else "pair"

    def object_crops(self) -> tuple[Crop, ...]:
        """Large views with masks and small ones, both of frame 0."""
        recipes = global_recipes(GLOBAL_VIEWS)
        large = Crop("global", self.global_size_px, self.global_scale, recipes, mask=self.masks())
        if not self.local_crops:
            return (large,)
        return large, Crop("local", self.local_size_px, self.local_scale, (LOCAL,) * self.local_crops)

    def neighbour_crop(self) -> Crop:
        """Large views of frame 1, without masks."""
        recipes = global_recipes(GLOBAL_VIEWS)
        return Crop("neighbour", self.global_size_px, self.global_scale, recipes, frames=(1,))

    def targets(self, crops: Sequence[Crop]) -> ObjectTargets | None:
        """What the loader has to know of objects; nothing where the teacher finds them all."""
        if self.objects == "teacher":
            return None
        aware = {"global", "neighbour", *(["local"] if self.object_aware_locals else [])}
        return ObjectTargets(
            by=self.object_by,
            choice=self.object_choice,
            aware=tuple(crop.name for crop in crops if crop.name in aware),
            min_share=self.object_min_share,
            tries=self.object_tries,
            margin=self.object_margin_patches,
            margin_draw=self.object_margin_draw,
            shape=self.object_shape,
            required=self.objects == "index",
        )


def outlined(batch: Mapping[str, Tensor], objects: Mapping[str, Tensor], groups: Sequence[str]) -> np.ndarray[Any, Any]:
    """Large views of some samples with their object outlined: uint8 RGB, a sample a row, a view a column.

    Args:
        batch: normalised views (B, V, 1, 3, S, S) of equal size.
        objects: bool (V, B, g, g) by crop group.
        groups: crop groups to show, from left to right.
    """
    columns = []
    for name in groups:
        views = batch[name][:PICTURES, :, 0].float().cpu()  # (b, V, 3, S, S)
        patches = objects[name][:, :PICTURES].transpose(0, 1).float().cpu()  # (b, V, g, g)
        inside = F.interpolate(patches, size=views.shape[-2:], mode="nearest")
        edge = (inside - -F.max_pool2d(-inside, 3, stride=1, padding=1))[
            :, :, None
        ] > 0  # pixels that touch the outside
        columns += list(torch.where(edge, torch.tensor(OUTLINE)[:, None, None], pixels(views)).unbind(1))
    rows = torch.cat(columns, dim=-1)  # (b, 3, S, columns * S)
    picture = torch.cat(list(rows), dim=-2)  # (3, b * S, columns * S)
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
