"""Input sizes that are no whole number of patches: a published 224 meets encoders of 14-pixel patches and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from components.common.errors import StageError

if TYPE_CHECKING:
    from components.evaluate.task import TaskParams

Fit = Literal["round", "exact"]
AnyFit = Literal["round", "exact", "pad", "crop"]


def input_side(side_px: int, patch_px: int, fit: AnyFit) -> tuple[int, list[str]]:
    """Side at which pictures enter the network, and what a reader of the figures must know of it.

    Args:
        side_px: as the protocol says.
        fit: `round` makes it smaller, to a whole number of patches; `exact` leaves it to the encoder to refuse what
            does not fit, `pad` and `crop` to mend it (see `Encoder`).
    """
    if side_px % patch_px == 0 or fit == "exact":
        return side_px, []
    if fit != "round":
        mended = {"pad": "padded", "crop": "cropped"}[fit]
        return side_px, [f"pictures of {side_px}x{side_px} are {mended} to whole {patch_px}-pixel patches"]
    side = side_px // patch_px * patch_px
    if side == 0:
        raise StageError(f"an input of {side_px} pixels is less than one patch of {patch_px}", do="raise it")
    return side, [f"pictures enter at {side}x{side} instead of {side_px}x{side_px}: whole {patch_px}-pixel patches"]


Args = TypeVar("Args", bound="TaskParams")


def fitted(args: Args, side: str, patch_px: int) -> tuple[Args, list[str]]:
    """The parameters with the side of that name fitted to whole patches, and the note on it."""
    side_px, notes = input_side(getattr(args, side), patch_px, args.fit)
    return args.model_copy(update={side: side_px}), notes
