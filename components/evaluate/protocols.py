"""Parameters that the propagation tasks share, and the published constants by the name of who published them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from components.evaluate.task import TaskParams

if TYPE_CHECKING:
    from components.evaluate.propagation import Rule
    from components.evaluate.video import Effort, Reading

DINO = {
    "input_px": 480, "long_side_multiple_px": 64, "pixel_std": [0.228, 0.224, 0.225],
    "context_frames": 7, "radius_cells": 12, "window": "square", "restrict_first": True, "fill_with_first": False,
    "top_k": 5, "keep_ties": True, "temperature": 0.1,
    "label_grid": "nearest", "min_max": True, "keep_first_mask": True,
}  # fmt: skip
CROPMAE = {
    "input_px": [480, 880], "long_side_multiple_px": 1, "pixel_std": None,
    "context_frames": 20, "radius_cells": 20, "window": "disk", "restrict_first": False, "fill_with_first": True,
    "top_k": 7, "keep_ties": False, "temperature": 0.7,
    "label_grid": "bilinear", "min_max": False, "keep_first_mask": False,
}  # fmt: skip
CRW = {**CROPMAE, "input_px": None, "radius_cells": 12, "top_k": 10, "temperature": 0.05}
MASK_KEYS = ("label_grid", "min_max", "keep_first_mask")


class RuleArgs(TaskParams):
    """How frames are sized and labels travel; a class of a task says which protocols it knows."""

    beside_protocol: ClassVar[frozenset[str]] = TaskParams.beside_protocol | {
        "block_cells",
        "gif_width_px",
        "gif_frames",
        "gif_s",
    }

    fit: Literal["round"] = Field("round", description="both sides are rounded down to whole patches")
    input_px: int | tuple[int, int] | None = Field(description="short side, or [height, width] forced, or null: as is")
    long_side_multiple_px: int = Field(gt=0, description="the long side is rounded down to a multiple")
    pixel_std: tuple[float, float, float] | None = Field(description="null: the encoder's own")
    context_frames: int = Field(ge=0, description="earlier frames asked besides the first")
    radius_cells: int = Field(ge=1, description="window, in cells of the feature grid")
    window: Literal["square", "disk"]
    restrict_first: bool = Field(description="the window holds on the first frame too")
    fill_with_first: bool = Field(description="copies of the first frame stand in for frames before the clip")
    top_k: int = Field(gt=0, description="source cells that vote")
    keep_ties: bool = Field(description="sources as similar as the k-th vote too")
    temperature: float = Field(gt=0)
    batch_images: int = Field(4, gt=0, description="frames per forward pass")
    block_cells: int = Field(256, gt=0, description="target cells worked on at once; speed and memory only")
    gif_width_px: int = Field(240, gt=0, description="width of one half of the animation")
    gif_frames: int = Field(40, gt=0, description="frames of the animation at most, evenly chosen")
    gif_s: float = Field(0.1, gt=0, description="seconds a frame is shown")

    def shown(self, n: int) -> range:
        """Numbers of the frames that an animation of n frames shows."""
        return range(0, n, -(-n // self.gif_frames))

    def rule(self) -> Rule:
        """How labels travel."""
        from components.evaluate.propagation import Rule

        return Rule(**{field.name: getattr(self, field.name) for field in fields(Rule)})

    def effort(self, device: str) -> Effort:
        """What changes speed and memory only."""
        from components.evaluate.video import Effort

        return Effort(self.batch_images, self.workers, device)


class MaskArgs(RuleArgs):
    """`protocol` sets the published constants; a key given beside it changes one of them."""

    published: ClassVar[dict[str, dict[str, Any]]] = {"dino": DINO, "cropmae": CROPMAE, "crw": CRW}

    protocol: Literal["dino", "cropmae", "crw"] = "dino"
    label_grid: Literal["nearest", "bilinear"]
    min_max: bool = Field(description="stretch every label's map to 0..1 before the maximum")
    keep_first_mask: bool = Field(description="write the first mask as given")


def protocol_of(args: MaskArgs) -> tuple[Reading, Rule]:
    """The parameters by what they govern: reading and writing frames, and moving labels."""
    from components.evaluate.video import Reading

    known = {field.name for field in fields(Reading)} & set(type(args).model_fields)
    return Reading(**{name: getattr(args, name) for name in known}), args.rule()


def input_words(args: RuleArgs) -> str:
    """Input size in words, for the protocol's name."""
    if args.input_px is None:
        return "native"
    if isinstance(args.input_px, int):
        return f"{getattr(args, 'input_side', 'short')} side {args.input_px}"
    return f"{args.input_px[1]}x{args.input_px[0]}"
