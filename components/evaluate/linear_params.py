"""Constants of linear classification, which its parts share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.evaluate.task import TaskParams

RATES = [m * 10.0**e for e in range(-4, 1) for m in range(1, 10)]


class LinearParams(TaskParams):
    """DINO's (arXiv:2104.14294, appendix) and iBOT's (arXiv:2111.07832, appendix)."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {"chunk_rows"}

    resize_px: int = Field(256, gt=0, description="short side of a test picture after the resize")
    crop_px: int = Field(224, gt=0, description="side of the network's input; rounded down to whole patches")
    last_blocks: int | None = Field(None, gt=0, description="class tokens concatenated; null: 4 for ViT-S, 1 above")
    mean_patches: bool | None = Field(None, description="and the last block's mean patch; null: above ViT-S")
    train_views: Literal["augmented", "cached"] = Field("augmented", description="cached: the test view, computed once")
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="share of the area of a random crop")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="its width / height")
    flip: float = Field(0.5, ge=0, le=1)
    lrs: list[Annotated[float, Field(gt=0)]] = Field(RATES, min_length=1)
    lr_batch: int | None = Field(256, gt=0, description="batch the rates are meant for; null: never scaled")
    batch_size: int = Field(1024, gt=0)
    epochs: int = Field(100, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    held_out_share: float = Field(0.02, gt=0, lt=1, description="of each class's training pictures; at least one")
    chunk_rows: int = Field(4096, gt=0, description="features scored at once")
