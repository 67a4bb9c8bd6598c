"""The twelve kinds of toys and what the real benchmarks call them.

All twelve are PASCAL VOC classes, so a dense probe for VOC's 21 classes runs on the sample world unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Names and ids of one class: VOC 2012 id, COCO category id, ADE20K id (0 = other) and VidOR category."""

    name: str
    voc: int
    coco: int
    coco_name: str
    coco_super: str
    ade: int
    vidor: str


KINDS = (
    Kind("aeroplane", 1, 5, "airplane", "vehicle", 91, "aircraft"),
    Kind("bird", 3, 16, "bird", "animal", 127, "bird"),
    Kind("boat", 4, 9, "boat", "vehicle", 77, "watercraft"),
    Kind("bus", 6, 6, "bus", "vehicle", 81, "bus/truck"),
    Kind("car", 7, 3, "car", "vehicle", 21, "car"),
    Kind("cat", 8, 17, "cat", "animal", 127, "cat"),
    Kind("cow", 10, 21, "cow", "animal", 127, "cattle/cow"),
    Kind("dog", 12, 18, "dog", "animal", 127, "dog"),
    Kind("horse", 13, 19, "horse", "animal", 127, "horse"),
    Kind("person", 15, 1, "person", "person", 13, "adult"),
    Kind("sheep", 17, 20, "sheep", "animal", 127, "sheep/goat"),
    Kind("train", 19, 7, "train", "vehicle", 0, "train"),  # ADE20K's 150 classes have no train
)
NAMES = tuple(kind.name for kind in KINDS)
BY_NAME = {kind.name: kind for kind in KINDS}

# Kinds of ground: their ADE20K id, 0 where the 150 classes have none.
GROUNDS = {
    "grass": 10,
    "sand": 47,
    "earth": 14,
    "water": 22,
    "pavement": 12,
    "floor": 4,
    "rug": 29,
    "road": 7,
    "snow": 0,
}

# scene-parsing names of the ADE20K ids above, as objectInfo150.txt spells their first word
ADE_NAMES = {
    4: "floor",
    7: "road",
    10: "grass",
    12: "sidewalk",
    13: "person",
    14: "earth",
    21: "car",
    22: "water",
    29: "rug",
    47: "sand",
    77: "boat",
    81: "bus",
    91: "airplane",
    127: "animal",
}
ADE_STUFF = frozenset({4, 7, 10, 12, 14, 22, 29, 47})

# VIP's 20 semantic parts, in the order of its label files.
VIP_PARTS = (
    "background",
    "hat",
    "hair",
    "sun-glasses",
    "upper-clothes",
    "dress",
    "coat",
    "socks",
    "pants",
    "gloves",
    "scarf",
    "skirt",
    "torso-skin",
    "face",
    "right-arm",
    "left-arm",
    "right-leg",
    "left-leg",
    "right-shoe",
    "left-shoe",
)
PART = {name: index for index, name in enumerate(VIP_PARTS)}

# JHMDB's 15 joints, in the order of pos_img.
JOINTS = (
    "neck",
    "belly",
    "face",
    "right_shoulder",
    "left_shoulder",
    "right_hip",
    "left_hip",
    "right_elbow",
    "left_elbow",
    "right_knee",
    "left_knee",
    "right_wrist",
    "left_wrist",
    "right_ankle",
    "left_ankle",
)
