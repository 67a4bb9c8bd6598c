"""What a method asks of the loader: which frames are drawn together, and which views are cut from them.

A plan is data, not code: methods write it, `views.py` carries it out in the workers, and a test can read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Photometric:
    """Colour operations of one view, in DINO's order (arXiv:2104.14294, appendix): jitter, grey, blur, solarise.

    `brightness` ... `hue` are torchvision ColorJitter's ranges; `*_p` are probabilities.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    solarise_p: float = 0.0
    solarise_threshold: int = 128


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
        draw: name of the index's draw (`frame`, `pair`, `clip`, `triple`).
        n_frames: frames in one draw.
        crops: the view groups.
        clip_crop: optional common crop of the clip.
    """

    draw: str
    n_frames: int
    crops: tuple[Crop, ...]
    clip_crop: ClipCrop | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(crop.name for crop in self.crops)
        if len(set(names)) != len(names):
            raise ValueError(f"crop groups need distinct names, got {names}")
        wrong = [f for crop in self.crops for f in crop.frames if not 0 <= f < self.n_frames]
        if wrong:
            raise ValueError(f"crops ask for frames {wrong} of a draw of {self.n_frames}")
        object.__setattr__(self, "names", names)
