"""Small real videos whose every picture tells its own number: frame n has luma 16 + 4 n."""

import io
import json
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from components.common.ffmpeg import ffmpeg_exe
from components.common.frame_store import FrameStore
from components.common.stage import main
from components.extract_frames.__main__ import STAGE, run

SHARED_VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"
NUMBERED = "nullsrc=s=64x48:r=25:d={seconds},geq=lum='16+4*N':cb=128:cr=128"


def ffmpeg(*args):
    subprocess.run([ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, args)], check=True)


def encode(path, picture, *options):
    """Write a lavfi picture as H.264; GOPs of 10 frames, a B frame between references."""
    h264 = ["-c:v", "libx264", "-crf", "4", "-preset", "ultrafast", "-g", "10", "-bf", "1", "-pix_fmt", "yuv420p"]
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg("-f", "lavfi", "-i", picture, *h264, *options, path)
    return path


def numbered(path, *options, seconds=2):
    """25 frames a second, each of which tells its number."""
    return encode(path, NUMBERED.format(seconds=seconds), *options)


def number_of(jpeg):
    """The number a frame's brightness tells (luma 16..235 is 0..255 in a JPEG)."""
    grey = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), np.float64).mean()
    return round(grey * 219 / 255 / 4)


class Extraction:
    """The stage, run in this process on `videos` below a temporary folder."""

    def __init__(self, root):
        self.root, self.videos, self.place = root, root / "videos", root / "frames"

    def __call__(self, **params):
        return self.command("--videos", self.videos, "--frames", self.place, **params)

    def command(self, *args, **params):
        given = {"mode": "fps", "fps": 25.0, "short_side_px": 48, "max_bad_share": 0.5, "workers": 2, **params}
        said = ["--corpus", "c", "--param", f"extract_frames.c={json.dumps(given)}"]
        return main(STAGE, run, [*said, *map(str, args)])

    def store(self, **params):
        assert self(**params) == 0
        store = FrameStore(self.place)
        store.verify()
        return store

    def rows(self, **params):
        """(videos by path, frames with their pictures' numbers by path)."""
        store = self.store(**params)
        videos = store.videos.to_pylist()
        frames = {video["path"]: [] for video in videos}
        for row in store.frames.to_pylist():
            row["number"] = number_of(store.read(row["shard"], row["offset"], row["size"]))
            frames[videos[row["video"]]["path"]].append(row)
        return {video["path"]: video for video in videos}, frames
