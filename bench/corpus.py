"""What 240,000 videos cost beside their decoding: the walk, a restart, the store. `python -m bench.corpus`

Files are tiny and no ffmpeg runs: each video gives the same few frames at once, so that all that is measured is the
stage's own work. A restart is a process of its own, on a corpus of which all but a few videos are finished: from its
start to the moment at which it could hand the first video to ffmpeg.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from components.common import outputs
from components.common.frame_store_writer import VideoRow
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import Source, walk_sources
from components.extract_frames.finished import Finished, assemble
from components.extract_frames.video import Decoder, Extracted, Writer, laid_out, timed

PER_FOLDER = 1000
LEFT = 10  # videos that the killed run had not finished


class Instant(Decoder):
    """Gives the same frames for every video."""

    def __init__(self, n_frames: int) -> None:
        super().__init__(ExtractParams(mode="fps", fps=1.0))
        stream = io.BytesIO()
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(stream, "JPEG")
        self.jpeg, self.n = stream.getvalue(), n_frames

    def extract(self, source: Source, jpegs: Writer) -> Extracted:
        for _ in range(self.n):
            jpegs.write(self.jpeg)
        places = laid_out(np.full(self.n, len(self.jpeg)))
        frames = timed(places, np.arange(self.n, dtype=np.float64), np.zeros(0), (1, 1), 1.0)
        return Extracted(VideoRow(source.key, source.name, fps=1.0, duration_s=float(self.n)), frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=240_000)
    parser.add_argument("--frames", type=int, default=10, help="frames a video")
    parser.add_argument("--restart", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.restart:
        restart(args.restart)
        return
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), args.videos, args.frames)


def bench(root: Path, n_videos: int, n_frames: int) -> None:
    """Print one line a measurement."""
    videos = root / "videos"
    for number in range(n_videos):
        if number % PER_FOLDER == 0:
            (videos / f"{number // PER_FOLDER:04d}").mkdir(parents=True)
        (videos / f"{number // PER_FOLDER:04d}" / f"{number:07d}.mp4").write_bytes(b"x")
    outputs.mark(videos, "download", "data", content="of the bench")
    begun, finished, decoder = time.process_time(), Finished(root), Instant(n_frames)
    sources = list(walk_sources(videos))
    say("walk", begun, len(sources), "videos")
    begun, wall = time.process_time(), time.perf_counter()
    for source in sources[:-LEFT]:
        finished.make(source, decoder)
    say("finish, without ffmpeg", begun, n_videos, "videos")
    print(f"  and waiting (the disk, others) {time.perf_counter() - wall - (time.process_time() - begun):8.2f} s")
    command = [sys.executable, "-m", "bench.corpus", "--restart", str(root)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{'restart':24}{found['cpu_s']:8.2f} s of a core, {found['mib']:.0f} MiB at most, {found['todo']} left")
    for source in sources[-LEFT:]:
        finished.make(source, decoder)
    begun = time.process_time()
    frames = assemble([sources], {}, finished, root / "frames", 256 * 10**6)
    say("store", begun, frames, "frames")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of it all   {peak:8.0f} MiB")


def restart(root: Path) -> None:
    """What a run does before it decodes: is the input the same, which videos are there, which are finished."""
    outputs.content_hash(root / "videos")
    sources = list(walk_sources(root / "videos"))
    finished = Finished(root)
    todo = sorted((s for s in sources if not finished.has(s)), key=lambda s: (-s.size, s.key))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024, "todo": len(todo)}))


def say(what: str, begun: float, count: int, unit: str) -> None:
    """One line: seconds of processor time and the rate."""
    spent = time.process_time() - begun
    print(f"{what:24}{spent:8.2f} s of a core, {count / spent:10,.0f} {unit}/s", flush=True)


if __name__ == "__main__":
    main()
