"""Writers of the benchmarks' own layouts, one file each, by name."""

from __future__ import annotations

from components.download.world.layouts import (
    ade20k,
    coco,
    davis,
    got10k,
    imagenet,
    jhmdb,
    videos,
    vidor,
    vip,
    voc,
    ytvos,
)
from components.download.world.layouts.writer import Writer

WRITERS: dict[str, Writer] = {
    "videos": videos.WRITER,
    "davis": davis.WRITER,
    "voc": voc.WRITER,
    "ade20k": ade20k.WRITER,
    "coco": coco.WRITER,
    "jhmdb": jhmdb.WRITER,
    "vip": vip.WRITER,
    "imagenet": imagenet.WRITER,
    "vidor": vidor.WRITER,
    "ytvos": ytvos.WRITER,
    "got10k": got10k.WRITER,
}
