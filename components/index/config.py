"""Parameters of the stage `index`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from components.common.config import Params, StageParams


class Subset(Params):
    """Few rows a video, and no frame in two of them (subset.py): Cross-Time's clips of VidOR."""

    per_video: tuple[int, int] = Field((10, 30), description="least and most, around the video's frames / a row's span")
    min_frames: int = Field(10, ge=1, description="videos of fewer frames give none")

    @field_validator("per_video")
    @classmethod
    def _least_first(cls, limits: tuple[int, int]) -> tuple[int, int]:
        if not 0 < limits[0] <= limits[1]:
            raise ValueError("per_video is [least, most] with 0 < least <= most")
        return limits


class SharingDraw(Params):
    """A draw of which only rows may be kept in whose every frame there is one and the same object."""

    shared: Literal["track", "category"] | None = Field(
        None, description="keep rows in which one track, or objects of one category, are in every frame; null: all rows"
    )


class OffsetsDraw(SharingDraw):
    """Frames at fixed times around an anchor: `[0, 0.5]` is a pair half a second apart."""

    offsets_s: tuple[float, ...] = Field(min_length=1, description="seconds from the anchor, rising; one of them 0")
    subset: Subset | None = Field(None, description="rows that have no frame in common, few a video; null: all rows")

    @field_validator("offsets_s")
    @classmethod
    def _rising_through_zero(cls, offsets: tuple[float, ...]) -> tuple[float, ...]:
        if list(offsets) != sorted(set(offsets)):
            raise ValueError("offsets must rise; each frame is used once in a draw")
        if 0 not in offsets:
            raise ValueError("one offset must be 0, the anchor itself")
        return offsets

    @property
    def anchor(self) -> int:
        """Position of the anchor in a row of the draw."""
        return self.offsets_s.index(0)


class ClipDraw(Params):
    """`n_frames` frames, each `gap_s` after the one before (DoRA, arXiv:2310.08584: 8 frames 1 s apart)."""

    n_frames: int = Field(gt=1)
    gap_s: float = Field(gt=0, description="seconds between neighbouring frames")
    anchor: ClassVar[int] = 0

    @property
    def offsets_s(self) -> tuple[float, ...]:
        """The clip as fixed offsets."""
        return tuple(step * self.gap_s for step in range(self.n_frames))


class RangesDraw(SharingDraw):
    """An anchor and one frame drawn from each range of times around it: a past and a future frame, say."""

    ranges_s: tuple[tuple[float, float], ...] = Field(min_length=1, description="[from, to] seconds from the anchor")

    @field_validator("ranges_s")
    @classmethod
    def _apart(cls, ranges: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        ends = [end for pair in ranges for end in pair]
        if ends != sorted(ends) or any(low <= 0 <= high for low, high in ranges):
            raise ValueError("each range is [from, to]; ranges must rise, not overlap, and leave out 0, the anchor")
        if any(after[0] <= before[1] for before, after in pairwise(ranges)):
            raise ValueError("ranges must not touch; each frame is used once in a draw")
        return ranges

    @property
    def anchor(self) -> int:
        """Position of the anchor in a row of the draw: after the past, before the future."""
        return sum(high < 0 for _, high in self.ranges_s)


class SpanDraw(Params):
    """Stretches of video from which frames are drawn anew each epoch: a row is the first and the last frame of one.

    T-CoRe's sandwich and TimeT's clips are drawn so. Their own loaders take whole videos, across cuts.
    """

    span: Literal["segment", "video"] = Field(description="one row a cut-free stretch, or one a video")
    min_s: float = Field(0.0, ge=0, description="seconds from the first to the last frame, at least")
    min_frames: int = Field(2, ge=1, description="frames in it, at least")
    max_s: float | None = Field(None, gt=0, description="longer ones are cut into pieces of so many seconds")
    anchor: ClassVar[int] = 0

    @model_validator(mode="after")
    def _pieces_are_kept(self) -> SpanDraw:
        if self.max_s is not None and self.max_s <= self.min_s:
            raise ValueError(f"max_s = {self.max_s:g} must be above min_s = {self.min_s:g}: no piece would be kept")
        return self


def _kind(value: Any) -> str | None:
    """Which kind of draw is meant, by the key that only this kind has; None makes the error name all kinds."""
    kinds = {"n_frames": "clip", "gap_s": "clip", "ranges_s": "ranges", "offsets_s": "offsets", "span": "span"}
    for key, kind in kinds.items():
        if (isinstance(value, dict) and key in value) or hasattr(value, key):
            return kind
    return None


Draw = Annotated[
    Annotated[OffsetsDraw, Tag("offsets")]
    | Annotated[ClipDraw, Tag("clip")]
    | Annotated[RangesDraw, Tag("ranges")]
    | Annotated[SpanDraw, Tag("span")],
    Discriminator(
        _kind,
        custom_error_type="draw",
        custom_error_message="a draw has `offsets_s`, or `n_frames` and `gap_s`, or `ranges_s`, or `span`",
    ),
]


# Of DAVIS, YouTube-VOS, VOC, ADE20K, COCO and VIP. PNGs with a palette are taken for labels in any folder.
LABEL_FOLDERS = (
    "annotations", "masks", "segmentationclass", "segmentationobject", "category_ids", "human_ids", "instance_ids",
)  # fmt: skip


class FingerprintParams(Params):
    """Perceptual fingerprints for the leakage check and the share of static video."""

    every_s: float = Field(default=1.0, gt=0, description="seconds between fingerprinted frames of a video")
    # 270 frames of 6 videos, 7 DAVIS/PUMaVOS sequences and 85 photographs: copies at half size and JPEG quality 30
    # differ in at most 15 of 256 bits, at 96 pixels in 20, brightened in 30; different scenes in at least 65.
    max_distance_bits: int = Field(default=36, ge=0, le=100, description="copies differ in at most so many of 256 bits")
    # White noise of 3 grey levels has 2.0; those frames had 6.6 and more. Below, the bits are noise.
    min_texture: float = Field(default=2.0, ge=0, description="median size of the DCT coefficients, in grey levels")
    max_images: int = Field(default=20_000, gt=0, description="images checked per benchmark, evenly spread")
    max_examples: int = Field(default=20, ge=0, description="matches listed per benchmark in the report")
    skip_folders: tuple[str, ...] = Field(default=LABEL_FOLDERS, description="folders that hold labels (any case)")
    workers: int = Field(default=0, ge=0, description="decoding threads; 0: one a core")


class SheetParams(Params):
    """The contact sheet: what a person looks at before training for a day."""

    columns: int = Field(default=8, gt=0, description="pictures side by side")
    frames: int = Field(default=24, ge=0, description="single frames, from as many videos as there are")
    draws: int = Field(default=4, gt=0, description="sampled rows of each draw of two or more frames")
    tile_px: int = Field(default=120, ge=32, description="height of a picture in pixels")
    quality: int = Field(default=85, ge=1, le=100, description="JPEG quality")


class IndexParams(StageParams):
    """All of the stage; times in seconds, since sources disagree about frame rates."""

    draws: dict[str, Draw] = Field(min_length=1, description="name -> which frames are drawn together")
    tolerance_s: float = Field(default=0.05, ge=0, description="farthest a drawn frame may lie from the wanted time")
    anchor_every_s: float | None = Field(default=None, gt=0, description="at most one anchor per so many seconds")
    max_anchors: int | None = Field(default=None, gt=0, description="at most so many rows a draw, chosen by seed")
    val_share: float = Field(default=0.0, ge=0, lt=1, description="share of videos held out from every draw")
    val_exact: bool = Field(
        default=False, description="hold out exactly that share of the readable videos (TimeT's 2,776 and 695 of 3,471)"
    )
    on_leak: Literal["exclude", "fail", "warn"] = "exclude"
    fingerprint: FingerprintParams = FingerprintParams()
    contact_sheet: SheetParams = SheetParams()

    @model_validator(mode="after")
    def _steps_above_tolerance(self) -> IndexParams:
        for name, draw in self.draws.items():
            if not name.replace("_", "").isalnum():
                raise ValueError(f"draw name '{name}' must be letters, digits and underscores: it names a file")
            times = draw.offsets_s if isinstance(draw, OffsetsDraw | ClipDraw) else ()
            steps = [after - before for before, after in pairwise(times)]
            if steps and min(steps) <= 2 * self.tolerance_s:
                what = f"draw '{name}' has frames {min(steps):g} s apart, not above twice tolerance_s"
                raise ValueError(f"{what} = {self.tolerance_s:g}: one frame could stand for both")
        return self


def shared_draws(params: IndexParams) -> dict[str, Literal["track", "category"]]:
    """Draws whose frames share an object, and by what."""
    return {
        name: draw.shared
        for name, draw in params.draws.items()
        if isinstance(draw, SharingDraw) and draw.shared is not None
    }
