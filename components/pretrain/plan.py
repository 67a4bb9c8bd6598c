"""What a method asks of the loader: which frames are drawn together, and which views are cut from them.

A plan is data, not code: methods write it, `views.py` carries it out in the workers, and a test can read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Photometric:
    """Colour operations of one view, in DINO's order (arXiv:2104.14294, appendix): jitter, grey, blur, solarise.

    `brightness` ... `hue` are torchvision ColorJitter's ranges; `*_p` are probabilities. `blur_taps` is the width of
    the blur's kernel in pixels; None takes one wide enough for three sigma. `one_jitter_op`: a jittered view gets one
    of the four operations, not all (TimeT's released code, which keeps only the last of them).
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    blur_taps: int | None = None
    solarise_p: float = 0.0
    solarise_threshold: int = 128
    one_jitter_op: bool = False


@dataclass(frozen=True)
class BlockMasks:
    """Which patches the student does not see, drawn for each crop alone (iBOT, arXiv:2111.07832; blocks after BEiT).

    A crop takes one of the `ratios` with its variation, evenly: `(0, 0.3)` with `(0, 0.2)` leaves half of the crops
    whole and masks 10 to 50 % of the others. A block mask stops when ten blocks in a row do not fit, so it covers at
    most its share.

    Attributes:
        ratios: shares of the patches to mask.
        variations: the share is uniform in ratio -+ variation.
        shape: `block`, or single patches at `random` (then exactly the share, rounded down).
        start_epoch: no crop is masked before this epoch.
        per_image: one share holds for all crops of a sample (the paper's text), not one for each (its code).
    """

    ratios: tuple[float, ...] = (0.0, 0.3)
    variations: tuple[float, ...] = (0.0, 0.2)
    shape: Literal["block", "random"] = "block"
    start_epoch: int = 0
    per_image: bool = False

    def __post_init__(self) -> None:
        if not self.ratios or len(self.ratios) != len(self.variations):
            raise ValueError(f"as many ratios as variations are needed, got {self.ratios} and {self.variations}")
        if any(not 0 <= r - v <= r + v < 1 for r, v in zip(self.ratios, self.variations, strict=True)):
            raise ValueError(f"ratios with their variations must lie in [0, 1), got {self.ratios} -+ {self.variations}")


@dataclass(frozen=True)
class StratifiedMasks:
    """Block masks shared out over the global batch (DINOv2, T-CoRe): exactly `share` of all crops are masked.

    Of N crops, S = int(N * share) are masked; the i-th of them covers exactly int(P * r) of its P patches, r uniform in
    the i-th of S equal parts of `ratio`. Which crop is the i-th is drawn anew each step.
    """

    share: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.ratio[0] <= self.ratio[1] < 1:
            raise ValueError(f"share must lie in [0, 1] and ratio rise within [0, 1), got {self.share}, {self.ratio}")


Masks = BlockMasks | StratifiedMasks


@dataclass(frozen=True)
class Sandwich:
    """Past, current and future frame of a span (T-CoRe, CVPR 2025), as shares of its number of frames n.

    The current frame is uniform in [int(current[0] n), int(current[1] n)); the past one lies int(past[0] n) to
    int(past[1] n) frames before it, the future one as many after it as `future` says, ends included. A span too short
    for that gives one random frame three times.
    """

    past: tuple[float, float] = (0.15, 0.25)
    current: tuple[float, float] = (0.3, 0.7)
    future: tuple[float, float] = (0.15, 0.25)
    n_frames: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        if any(not 0 <= low <= high <= 1 for low, high in (self.past, self.current, self.future)):
            raise ValueError("past, current and future must rise within [0, 1]")
        if self.current[0] < self.past[1] or self.current[1] + self.future[1] > 1:
            raise ValueError("past and future frames of the outermost current frames would lie outside the span")


@dataclass(frozen=True)
class UniformTimes:
    """`n_frames` distinct frames of a span, in order (TimeT's UNIFORM); with replacement where it has fewer."""

    n_frames: int = 4


@dataclass(frozen=True)
class Consecutive:
    """`n_frames` frames from a random start, each `gap_s` after the one before (TimeT's DENSE); None: neighbours."""

    n_frames: int = 4
    gap_s: float | None = None


@dataclass(frozen=True)
class Regular:
    """As `Consecutive`, but a step that does not fit into the span shrinks to what does (TimeT's REGULAR)."""

    n_frames: int = 4
    step_s: float = 1.0


@dataclass(frozen=True)
class RangeTimes:
    """The first frame of a pair, and a second one `low_s` to `high_s` after it, drawn anew each epoch.

    The index's draw is one of `ranges_s: [[low_s, high_s]]`: its rows are the frames that have such a second one.
    """

    low_s: float
    high_s: float
    n_frames: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.low_s <= self.high_s:
            raise ValueError(f"low_s and high_s must rise from above 0, got {self.low_s} and {self.high_s}")


SpanTiming = Sandwich | UniformTimes | Consecutive | Regular
Timing = SpanTiming | RangeTimes


@dataclass(frozen=True)
class ObjectTargets:
    """The object that a sample is about, which its crops must show (ODIS, arXiv:2506.05409; its crops as in the code of
    Cross-Time Self-Distillation, from which the defaults are).

    Candidates are the objects that the index knows in every frame of the sample. Crops are drawn until the first one is
    covered by some candidate; that one is the target, and crops of `aware` groups are drawn until they show it. A crop
    that never does stays as it was first drawn.

    Attributes:
        by: what frames share: one track, or a category, all of whose objects are then one target.
        choice: of the candidates that cover the first crop enough the `largest` (what the released `random_area`
            does), or one at `random`.
        aware: names of crop groups that must show the target; the first view of the first one chooses it.
        min_share: of the first crop's pixels, that a target must cover; of every other crop, one pixel.
        tries: crops drawn at most, for the first one and for each other.
        margin: patches by which the target's patches are grown.
        margin_draw: the margin itself (`fixed`), or one of 0 ... margin for each crop (`random`).
        shape: `box` takes the bounding rectangle of each connected piece of patches, also where the index has label
            maps (released code); `silhouette` the patches themselves.
        required: an index without objects is an error; else such an index gives samples without a target.
    """

    by: Literal["track", "category"] = "track"
    choice: Literal["largest", "random"] = "largest"
    aware: tuple[str, ...] = ("global",)
    min_share: float = 0.04
    tries: tuple[int, int] = (10, 20)
    margin: int = 0
    margin_draw: Literal["fixed", "random"] = "fixed"
    shape: Literal["box", "silhouette"] = "box"
    required: bool = True

    def __post_init__(self) -> None:
        if not self.aware or min(self.tries) < 1 or self.margin < 0 or not 0 <= self.min_share < 1:
            raise ValueError("objects need a crop group, one try or more, a margin from 0 on, and a share in [0, 1)")


@dataclass(frozen=True)
class Crop:
    """A group of views of one size, returned as one uint8 tensor (B, views, frames, size, size, 3).

    Attributes:
        name: key of the group in the batch (`global`, `local`).
        size_px: side of the square view in pixels.
        scale: range of the crop's area as a share of the image (RandomResizedCrop).
        ratio: range of the crop's aspect ratio, drawn uniformly in log space.
        photometric: one recipe a view; its length is the number of views.
        frames: which frames of the draw get these views (positions in the draw).
        shared_geometry: one box and one flip per view for all its frames (paired views); else drawn per frame.
        shared_photometric: the same colour draws for all frames of a view; else drawn per frame.
        flip_p: probability of a horizontal flip.
        whole: no random box, but the largest centred one whose ratio lies in `ratio` (`scale` has no meaning then).
        blur_sigma_per_frame: with shared colours, a blurred view draws its sigma anew for each frame (TimeT's code).
        mask: patches that the student does not see, delivered as `<name>_mask`.
    """

    name: str
    size_px: int
    scale: tuple[float, float]
    photometric: tuple[Photometric, ...]
    frames: tuple[int, ...] = (0,)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shared_geometry: bool = True
    shared_photometric: bool = False
    flip_p: float = 0.5
    whole: bool = False
    blur_sigma_per_frame: bool = False
    mask: Masks | None = None


@dataclass(frozen=True)
class ClipCrop:
    """One RandomResizedCrop shared by all frames of the clip before any view is cut (DoRA; next-frame)."""

    size_px: int = 300
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class ViewPlan:
    """Everything a method wants from one sample.

    Attributes:
        draw: name of the index's draw (`frame`, `pair`, `clip`, `span`).
        n_frames: frames of one sample.
        crops: the view groups.
        clip_crop: optional common crop of the clip.
        both_ways: each row of the draw is two samples, its frames in order and reversed: every frame is an anchor.
        timing: which frames of a row are taken, anew each epoch; None takes the row's own. All but `RangeTimes` need a
            draw of spans.
        objects: the object that a sample is about, delivered as `<crop>_object` for every crop group.
        patch_px: side of the encoder's patches in pixels; needed where a crop has masks, and for objects.
    """

    draw: str
    n_frames: int
    crops: tuple[Crop, ...]
    clip_crop: ClipCrop | None = None
    both_ways: bool = False
    timing: Timing | None = None
    objects: ObjectTargets | None = None
    patch_px: int | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(crop.name for crop in self.crops)
        if len(set(names)) != len(names):
            raise ValueError(f"crop groups need distinct names, got {names}")
        wrong = [f for crop in self.crops for f in crop.frames if not 0 <= f < self.n_frames]
        if wrong:
            raise ValueError(f"crops ask for frames {wrong} of a draw of {self.n_frames}")
        if self.timing is not None and self.timing.n_frames != self.n_frames:
            raise ValueError(f"the timing takes {self.timing.n_frames} frames, the plan has {self.n_frames}")
        for crop in self.crops:
            patches = crop.mask is not None or self.objects is not None
            if patches and (not self.patch_px or crop.size_px % self.patch_px):
                raise ValueError(f"'{crop.name}' has masks: {crop.size_px} px must be patches of {self.patch_px} px")
        if self.objects is not None and not set(self.objects.aware) <= set(names):
            raise ValueError(f"objects are sought in crop groups {self.objects.aware}, the plan has {names}")
        object.__setattr__(self, "names", names)

    def grid(self, crop: Crop) -> int:
        """Patches along one side of a crop."""
        assert self.patch_px is not None
        return crop.size_px // self.patch_px

    def recoloured(self, **colours: Any) -> ViewPlan:
        """The same views with these values in every crop's photometric recipes."""
        crops = tuple(
            replace(crop, photometric=tuple(replace(recipe, **colours) for recipe in crop.photometric))
            for crop in self.crops
        )
        return replace(self, crops=crops)
