"""Blurring faces by an external program, which must be installed by the user: `deface` (pip install deface)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from components.common.context import Context
from components.common.errors import StageError
from components.download.config import BlurFaces
from components.download.streams import videos_below

SAID_CHARS = 200


def program(params: BlurFaces) -> str:
    """Where the program is; raises StageError when it is not installed. Asked before anything is fetched."""
    found = shutil.which(params.command)
    if found is None:
        do = f"install it (pip install {params.command}), or set blur_faces to null"
        raise StageError(f"no program '{params.command}' on the PATH, which is to blur faces", do=do)
    return found


def blur_all(tree: Path, params: BlurFaces, ctx: Context) -> int:
    """Put a blurred copy in the place of every video below our own copy `tree`; returns how many.

    The copies are MP4 files at a constant rate, without sound; a video of another kind gets that ending. A finished
    copy is kept in the cache, so that a killed run does not blur it once more.
    """
    exe, videos, done = program(params), videos_below(tree), ctx.cache / "blurred"
    done.mkdir(exist_ok=True)
    with ctx.progress(len(videos), "videos blurred") as progress:
        for video in videos:
            name = video.relative_to(tree).as_posix().replace("/", "%2F")
            blurred = done / f"{name}.mp4"
            if not blurred.exists():
                _blur(exe, params, video, blurred)
            shutil.copyfile(blurred, video)
            renamed = video.with_suffix(".mp4")
            if not renamed.exists():
                video.rename(renamed)
            progress.update(1)
    return len(videos)


def _blur(exe: str, params: BlurFaces, video: Path, target: Path) -> None:
    """deface goes by the ending: it passes over what it does not know (.ts), and fails to write H.264 to .webm."""
    partial, source = target.with_name(f"partial-{target.name}"), target.with_name("source.mp4")
    source.unlink(missing_ok=True)
    source.symlink_to(video.absolute())
    told = [*params.args, "--ffmpeg-config", json.dumps(params.encoder)]
    command = [exe, *told, "--output", str(partial), str(source)]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    if ran.returncode or not partial.is_file():  # a file that it cannot read is passed over with code 0
        said = [line for line in (ran.stderr if ran.returncode else ran.stdout).splitlines() if line.strip()]
        last = (said or ["it said nothing"])[-1].strip()[:SAID_CHARS]
        what = f"'{params.command}' ended with code {ran.returncode} and made no whole file: {last}"
        do = "mend or remove the video, or set blur_faces to null"
        raise StageError(what.replace(str(source), video.name), where=video.name, do=do)
    partial.rename(target)
