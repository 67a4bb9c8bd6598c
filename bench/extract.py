"""How close extract_frames comes to decoding alone: `python -m bench.extract [--videos DIR | --long SECONDS]`.

Both run over the same files with the same number of single-thread ffmpeg processes, in turns. "bare" is
`ffmpeg -threads 1 -i FILE -f null -`; "stage" is the whole stage, from the walk over the folder to the finished frame
store, hashing of the inputs included. Without --videos, 720p H.264 at 3 Mbit/s is rendered first; with --long it is one
video, which the stage decodes in pieces on all cores, while "bare" decodes it once on each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from components.common.ffmpeg import ffmpeg_exe
from components.common.stage import main as run_stage
from components.extract_frames.__main__ import STAGE, run
from components.extract_frames.find import Source, find_sources

FLOOR, FLOOR_LONG = 0.85, 0.8
LOOP_S = 20.0  # of a long video is encoded, the rest repeats it
CORES = len(os.sched_getaffinity(0))
QUIET = ["-hide_banner", "-nostdin"]


def render(folder: Path, seconds: float) -> None:
    """Two clips a core: moving pattern with film grain, so that there is something to decode."""
    picture = f"testsrc2=s=1280x720:r=30:d={seconds},noise=alls=12:allf=t"
    h264 = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", "3M", "-g", "60", "-pix_fmt", "yuv420p"]
    command = [ffmpeg_exe(), *QUIET, "-v", "error", "-f", "lavfi", "-i", picture, *h264, str(folder / "0.mp4")]
    subprocess.run(command, check=True)
    for copy in range(1, 2 * CORES):
        (folder / f"{copy}.mp4").write_bytes((folder / "0.mp4").read_bytes())


def render_long(folder: Path, seconds: float) -> None:
    """One long video: a short one over and over, its packets copied."""
    with tempfile.TemporaryDirectory() as place:
        render(Path(place), LOOP_S)
        again = ["-stream_loop", str(round(seconds / LOOP_S) - 1), "-i", f"{place}/0.mp4", "-c", "copy"]
        subprocess.run([ffmpeg_exe(), *QUIET, "-v", "error", *again, str(folder / "long.mp4")], check=True)


def decode(source: Source) -> int:
    """Decode one file on one thread and throw the frames away; returns their number."""
    command = [ffmpeg_exe(), *QUIET, "-threads", "1", "-i", f"file:{source.path}", "-map", "0:V:0", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.findall(r"frame= *(\d+)", said)[-1])


class Spent(NamedTuple):
    """Seconds on the clock and of processor time (steadier on a busy machine), and the frames they gave."""

    wall: float
    cpu: float
    frames: int


def bare(sources: list[Source]) -> Spent:
    """Decoding alone."""
    start, cpu = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(CORES) as pool:
        frames = sum(pool.map(decode, sorted(sources, key=lambda s: -s.size)))
    return Spent(time.perf_counter() - start, cpu_seconds() - cpu, frames)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def stage(videos: Path, params: dict[str, object]) -> Spent:
    """The stage, started from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LONGTAKE_CACHE": f"{folder}/cache", "LONGTAKE_TRACKING": "off"}
        where = ["--corpus", "bench", "--videos", str(videos), "--frames", f"{folder}/frames"]
        start, cpu = time.perf_counter(), cpu_seconds()
        with contextlib.redirect_stdout(io.StringIO()):
            code = run_stage(STAGE, run, [*where, "--param", f"extract_frames.bench={json.dumps(params)}"])
        if code:
            raise SystemExit(code)
        wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        return Spent(wall, cpu, int(json.loads(Path(folder, "frames", "store.json").read_text())["frames"]))


def compare(videos: Path, params: dict[str, object], rounds: int) -> float:
    """Print a line a round; returns the median of the stage's rate / the bare rate, in source frames a second."""
    sources = find_sources(videos)
    each = sources if len(sources) > 1 else sources * CORES  # one video cannot keep all cores busy with bare decoding
    times = len(each) // len(sources)
    stage(videos, params)  # warms the page cache and Python's imports
    ratios = []
    print(f"{len(sources)} videos, {CORES} processes, {params}")
    print("round   bare s  source frames/s   stage s  source frames/s  stored  ratio  ratio of processor time")
    for number in range(rounds):
        alone, ours = bare(each), stage(videos, params)
        ratios.append(alone.wall / ours.wall / times)
        line = f"{number:5d}  {alone.wall:7.2f}  {alone.frames / alone.wall:15.0f}"
        line += f"  {ours.wall:8.2f}  {alone.frames / times / ours.wall:15.0f}  {ours.frames:6d}"
        print(f"{line}  {ratios[-1]:5.2f}  {alone.cpu / ours.cpu / times:5.2f}", flush=True)
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of videos")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a rendered clip")
    parser.add_argument("--long", type=float, metavar="SECONDS", help="one video of so many seconds")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second that are taken")
    parser.add_argument("--short-side", type=int, default=256, help="pixels")
    parser.add_argument("--cuts", action="store_true", help="look for hard cuts as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="fail below the wanted ratio")
    args = parser.parse_args()
    params: dict[str, object] = {"mode": "fps", "fps": args.fps, "short_side_px": args.short_side}
    params["cuts"] = {} if args.cuts else None
    with tempfile.TemporaryDirectory() as folder:
        if args.videos is None and args.long:
            render_long(Path(folder), args.long)
        elif args.videos is None:
            render(Path(folder), args.seconds)
        ratio = compare(args.videos or Path(folder), params, args.rounds)
    floor = FLOOR_LONG if args.long else FLOOR
    print(f"median ratio {ratio:.3f} (at least {floor} is wanted)")
    return int(args.check and ratio < floor)


if __name__ == "__main__":
    raise SystemExit(main())
