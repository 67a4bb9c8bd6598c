"""Parameters of the sample world."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.common.config import StageParams

Split = Literal["pretrain", "train", "val"]
Layout = Literal["videos", "davis", "voc", "ade20k", "coco", "jhmdb", "vip", "imagenet", "vidor", "ytvos", "got10k"]
Share = Annotated[float, Field(ge=0, le=1)]


class WorldParams(StageParams):
    """What the world is asked for.

    A clip depends on `seed`, its split and its number (and on the size, rate and length below), never on how many
    clips there are. The three splits share no clip: `pretrain` is meant for corpora, `train` and `val` for benchmarks.
    """

    source: Literal["procedural"] = "procedural"
    seed: int = Field(0, ge=0)
    layouts: list[Layout] = Field(["videos"], min_length=1, description="one: written at the root; more: a folder each")

    split: Split = Field("pretrain", description="split of the layouts without splits of their own: videos, vidor")
    clips: int = Field(24, ge=1, description="clips of `split`, for videos and vidor")
    train_clips: int = Field(4, ge=0, description="training clips, for every other layout")
    val_clips: int = Field(4, ge=0, description="validation clips, for every other layout")

    clip_s: float = Field(10.0, gt=0, le=86_400, description="length of a clip, seconds")
    fps: float = Field(24.0, gt=0, le=240, description="frames per second")
    width_px: int = Field(256, ge=32, le=4096)
    height_px: int = Field(192, ge=32, le=4096)

    objects: tuple[int, int] = Field((3, 6), description="objects on stage at a time: least, most")
    object_size: tuple[float, float] = Field(
        (0.35, 0.6), description="height of a person / of the frame: least, most; other toys are to scale"
    )
    camera_units_per_s: float = Field(0.2, ge=0, le=2, description="mean speed of the camera, frame heights per second")
    cuts_per_s: Share = Field(0.0, description="chance that a shot ends in a hard cut, per second (videos, vidor)")

    tracks: bool = Field(False, description="write the boxes of all toys as annotations/<clip>.json (videos)")

    crf: int = Field(23, ge=0, le=51, description="x264 constant rate factor")
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "veryfast"
    keyframe_s: float = Field(1.0, gt=0, description="longest distance between keyframes, seconds")
    jpeg_quality: int = Field(92, ge=1, le=100)

    stills_per_clip: int = Field(4, ge=1, description="images taken from a clip, evenly in time (voc, ade20k, coco)")
    void_px: int = Field(1, ge=0, le=20, description="half-width of the 255 band at object contours (voc)")
    davis_void_px: int = Field(0, ge=0, le=20, description="the same for davis; 0 as in the semi-supervised set")
    ytvos_every: int = Field(5, ge=1, description="every so many frames are kept and have a mask (ytvos)")
    min_object_px: int = Field(40, ge=1, description="smaller visible objects get no box, polygon or davis id, pixels")
    imagenet_classes: Literal["toys", "scenes"] = Field(
        "toys", description="kinds of toys, a crop each; or clips: stills of their first third against the last third"
    )
    crop_px: int = Field(96, ge=16, le=1024, description="side of an imagenet crop, pixels")
    crop_margin: float = Field(1.25, ge=1, le=4, description="imagenet crop side / longer side of the object's box")
    crop_min_visible: Share = Field(0.6, description="least unhidden share of an imagenet object")

    workers: int = Field(0, ge=0, description="processes; 0: one per core. The bytes do not depend on it")

    @model_validator(mode="after")
    def _consistent(self) -> WorldParams:
        if self.width_px % 2 or self.height_px % 2:
            raise ValueError("width_px and height_px must be even (yuv420p)")
        for name in ("objects", "object_size"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"{name} must be [least, most] with 0 < least <= most")
        if self.objects[1] > 100:
            raise ValueError("objects: at most 100 (palette PNGs count to 254)")
        if self.object_size[1] > 1:
            raise ValueError("object_size is a share of the frame height: at most 1")
        if len(set(self.layouts)) < len(self.layouts):
            raise ValueError("layouts names one layout twice")
        if set(self.layouts) - {"videos", "vidor"} and not self.train_clips + self.val_clips:
            raise ValueError("train_clips and val_clips are both 0")
        return self

    @property
    def n_frames(self) -> int:
        """Frames of one clip, at least one."""
        return max(1, round(self.clip_s * self.fps))
