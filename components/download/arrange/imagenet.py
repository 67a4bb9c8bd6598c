"""ImageNet-1k as its archives unpack: validation pictures lie in one folder, the development kit tells their classes.

    train/n01440764/*.JPEG    val/ILSVRC2012_val_00000001.JPEG
    ILSVRC2012_devkit_t12/data/{ILSVRC2012_validation_ground_truth.txt, meta.mat}

They are sorted into class folders, as every reader of ImageNet expects.
"""

from __future__ import annotations

from pathlib import Path

from components.common.errors import StageError

TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
META = "data/meta.mat"


def arrange(root: Path, tree: Path) -> str:
    """Sort `val/*.JPEG` into class folders; "" where nothing lies loose there.

    Raises:
        StageError: the kit is missing, or it tells of another number of pictures.
    """
    val = root / "val"
    loose = sorted(file for file in val.glob("*.JPEG")) if val.is_dir() else []
    if not loose:
        return ""
    kit = next((folder for folder in sorted(tree.rglob("*devkit*")) if (folder / TRUTH).is_file()), None)
    if kit is None:
        do = "put ILSVRC2012_devkit_t12.tar.gz beside the other archives"
        raise StageError("val/ has no class folders, and the development kit that tells the classes is missing", do=do)
    labels = [int(line) for line in (kit / TRUTH).read_text(encoding="utf-8").split()]
    if len(labels) != len(loose):
        raise StageError(
            f"{len(loose)} validation pictures, the development kit tells of {len(labels)}", where=val.name
        )
    names = class_names(kit / META)
    for file, label in zip(loose, labels, strict=True):  # line k is the picture of number k: they sort the same
        folder = val / names[label]
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)
    return f"sorted {len(loose):,} validation pictures into {len(set(labels)):,} class folders"


def class_names(meta: Path) -> dict[int, str]:
    """WordNet id of each class number, from `synsets` of meta.mat: its first two fields, inner nodes left out."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise StageError(f"the list of classes cannot be read, {error}", where=meta.name) from None
