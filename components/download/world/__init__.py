"""The sample world: a toy land filmed by a moving camera, with exact truth in the real benchmarks' layouts.

scene.py    what happens: camera, light and cast of a shot, in closed form over time
bodies/     the twelve kinds of toys, as trees of moving parts (body.py) painted once (sprite.py, texture.py)
ground.py   what they stand on
render.py   frames, and their truth from the same geometry
truth.py    boxes, polygons and void bands, read from the id buffer
layouts/    one writer a benchmark layout
write.py    all clips, side by side, resumable
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.common.progress import Progress
from components.download.world.config import WorldParams

__all__ = ["WorldParams", "write_world"]


def write_world(params: WorldParams, out: Path, scratch: Path, progress: Progress) -> dict[str, Any]:
    """See `components.download.world.write.write_world`; OpenCV is imported only when it is called."""
    from components.download.world.write import write_world as write

    return write(params, out, scratch, progress)
