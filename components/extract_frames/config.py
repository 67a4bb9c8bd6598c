"""Parameters of extract_frames."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.common.config import Params, StageParams


class CutParams(Params):
    """Hard-cut detection by ffmpeg's `scdet` on every decoded frame."""

    threshold: float = Field(
        8.0,
        gt=0,
        le=100,
        description="percent of full scale by which the mean luma difference of two frames must jump: cuts of real "
        "clips score 10-27, a moving camera below 4, a shaken one up to 18 (a false mark only costs some pairs)",
    )


class LabelParams(Params):
    """Palette masks beside frame folders, as in DAVIS, YouTube-VOS, MOSE and VISOR's export."""

    folder: str = Field("Annotations", min_length=1, description="name of the folders that hold masks, at any depth")
    void: int | None = Field(255, ge=1, le=255, description="value of no object; null: it is one (DAVIS 2016)")
    categories: str | None = Field("meta.json", description="YouTube-VOS's file of categories; null: all are 'object'")
    values: Literal["object", "category"] = Field(
        "object",
        description="what a track is: one object, or all objects of a category (its number by the sorted names)",
    )


class ExtractParams(StageParams):
    """One corpus: which frames are taken, how large, how well compressed."""

    mode: Literal["fps", "every_s", "keyframes", "count"] = "fps"
    fps: float | None = Field(None, gt=0, le=1000, description="at most so many frames a second (mode fps)")
    every_s: float | None = Field(None, gt=0, le=86400, description="one frame every so many seconds (mode every_s)")
    count: int | None = Field(None, ge=1, description="so many frames of each video, evenly spread (mode count)")
    last_frame: bool = Field(False, description="the last frame of each video, too, wherever it lies")
    videos: str | None = Field(
        None,
        description="the videos to take: a list below the corpus (of names, or T-CoRe's entries-*.npy), or a pattern "
        "of their paths with a *; null: all",
    )
    short_side_px: int = Field(256, ge=16, le=8192, description="short side of the stored frames")
    upscale: bool = Field(False, description="enlarge videos that are smaller than short_side_px")
    quality: int = Field(2, ge=2, le=31, description="ffmpeg's JPEG quantiser: 2 is best, 31 smallest")
    cuts: CutParams | None = Field(None, description="mark hard cuts; null: none are looked for")
    source_fps: float | None = Field(
        None, gt=0, le=1000, description="frame rate of image folders; null: folders of images are not videos"
    )
    tracks: str | None = Field(
        None,
        description="folder beside the videos with VidOR's JSON of each, <video>.json at any depth; null: no objects",
    )
    masks: str | None = Field(
        None, description="folder with label maps, <video>/<annotated frame>.png, pixels are track + 1; needs `tracks`"
    )
    labels: LabelParams | None = Field(None, description="masks beside frame folders; null: none, or see `tracks`")
    workers: int = Field(0, ge=0, le=4096, description="ffmpeg processes at a time; 0: one per core")
    piece_s: float | None = Field(
        60.0, gt=0, description="long videos are decoded in pieces of about so many seconds, side by side; null: whole"
    )
    split_mb: float = Field(64.0, ge=0, description="smaller videos, in 1e6 bytes, are not looked at for pieces")
    # Kubeflow hands the merge all its parts in one argument, of which Linux takes 128 KiB: up to 1 KiB for each part.
    parts: int = Field(1, ge=1, le=128, description="the video list is cut in so many parts; each begins a shard")
    max_bad_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of unreadable videos, or of unusable annotations, above which the stage fails",
    )
    shard_mb: int = Field(256, ge=1, le=65536, description="largest size of a tar shard, in 1e6 bytes")

    @model_validator(mode="after")
    def _mode_has_its_number(self) -> Self:
        if self.mode != "keyframes" and getattr(self, self.mode) is None:
            raise ValueError(f"mode '{self.mode}' needs a value for '{self.mode}'")
        if self.mode == "keyframes" and self.cuts is not None:
            raise ValueError("cuts between keyframes cannot be seen, as nothing there is decoded: set 'cuts' to null")
        if self.mode == "keyframes" and self.last_frame:
            raise ValueError("the last frame is not a keyframe as a rule: set 'last_frame' to false")
        if self.labels is not None and self.tracks is not None:
            raise ValueError("objects come from `tracks` or from `labels`, not from both")
        if self.masks is not None and self.tracks is None:
            raise ValueError("label maps need the categories of their tracks: set 'tracks' too")
        return self
