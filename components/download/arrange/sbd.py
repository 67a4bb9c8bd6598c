"""Pascal VOC 2012's augmented training set (Hariharan et al., ICCV 2011) from the SBD archive beside the devkit.

SBD has a MATLAB file of each of 11,355 pictures. Of what it and VOC's own train list name, all that VOC's validation
list does not name is `trainaug`: 10,582. VOC's own label map is taken where there is one, since SBD marks no void.
Label maps of the validation pictures are VOC's, too, so that SegmentationClassAug serves both splits.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from components.common.errors import StageError

SETS, OWN, AUG = "ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug"


def arrange(root: Path, tree: Path) -> str:
    """Write SegmentationClassAug and trainaug.txt where an SBD folder is there and they are not; "" else.

    Raises:
        StageError: VOC's lists are missing, or a label map cannot be read.
    """
    sbd = next((path.parent for path in sorted(tree.rglob("cls")) if path.is_dir()), None)
    if sbd is None or (root / AUG).is_dir():
        return ""
    train, val = (_names(root / SETS / f"{name}.txt") for name in ("train", "val"))
    more = {file.stem for file in (sbd / "cls").glob("*.mat")}
    names = sorted((more | train) - val)
    partial = root / f".{AUG}.partial"
    partial.mkdir(exist_ok=True)
    for name in [*names, *sorted(val)]:
        own = root / OWN / f"{name}.png"
        if own.is_file():
            shutil.copyfile(own, partial / own.name)
        elif name in more:
            _convert(sbd / "cls" / f"{name}.mat", partial / f"{name}.png")
    partial.rename(root / AUG)
    (root / SETS / "trainaug.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return f"wrote {AUG} and trainaug.txt of {len(names):,} pictures"


def _names(file: Path) -> set[str]:
    try:
        return set(file.read_text(encoding="utf-8").split())
    except OSError:
        raise StageError(
            "the augmented set needs VOC's own list, which is missing", where=f"{SETS}/{file.name}"
        ) from None


def _convert(mat: Path, png: Path) -> None:
    import numpy as np
    from PIL import Image
    from scipy.io import loadmat

    try:
        labels = loadmat(mat)["GTcls"]["Segmentation"][0, 0]
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise StageError(f"the label map cannot be read, {error}", where=mat.name) from None
    Image.fromarray(labels.astype(np.uint8)).save(png)
