"""A long video in pieces gives the store of one process, byte for byte, whatever its GOPs, times and damage."""

import os
import re
import shutil
import subprocess

import pytest

from components.common.errors import ExitCode
from components.common.ffmpeg import ffmpeg_exe
from components.extract_frames import long_video
from components.extract_frames.config import ExtractParams
from components.extract_frames.find import find_sources
from components.extract_frames.pieces import plan_pieces
from components.extract_frames.video import Decoder
from tests.extract_frames.clips import ffmpeg

PIECES = {"piece_s": 0.7, "split_mb": 0}
# Six shots of different lengths: encoders put keyframes at the cuts, which are then the borders of pieces.
SHOTS = "testsrc2=s=96x64:r=25:d={0}[a];smptebars=s=96x64:r=25:d={1}[b];mandelbrot=s=96x64:r=25,trim=duration={2}[c]"
FILM = f"{SHOTS.format(1.3, 0.9, 1.1)};[a][b][c]concat=n=3,split[x][y];[y]reverse[z];[x][z]concat=n=2"
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
HALF = ["-vf", "select=not(eq(mod(n\\,7)\\,3)+between(n\\,60\\,75))", "-fps_mode", "vfr"]
SOUND = ["-f", "lavfi", "-i", "sine=d=7"]
OPEN = ["-g", "20", "-bf", "3", "-x264-params", "open-gop=1:b-pyramid=2:scenecut=0"]
X265 = "keyint=20:open-gop=1:bframes=3:log-level=0"
KINDS = {
    "closed.mp4": [*X264, "-g", "12", "-bf", "2"],
    "open.mp4": [*X264, *OPEN],
    "open.mkv": [*X264, *OPEN],
    "intra.mp4": [*X264, "-g", "1"],
    "variable.mp4": [*HALF, *X264, "-g", "15", "-bf", "1"],
    "fragments.mp4": [*X264, "-g", "25", "-movflags", "frag_keyframe+empty_moov"],
    "one_gop.mp4": [*X264, "-g", "9999", "-sc_threshold", "0"],
    "refresh.mp4": [*X264, "-x264-params", "intra-refresh=1:keyint=20"],
    "sound.mp4": [*X264, "-g", "20", "-bf", "2", "-c:a", "aac"],
    "hevc.mkv": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", X265],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "20", "-auto-alt-ref", "1"],
    "mpeg4.mkv": ["-c:v", "mpeg4", "-q:v", "3", "-g", "15", "-bf", "2"],
    "stream.ts": [*X264, "-g", "20"],
}  # fmt: skip
IN_PIECES = set(KINDS) - {"one_gop.mp4", "stream.ts"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """The film by every encoder, and cut from a stream so that its first time is not 0."""
    folder = tmp_path_factory.mktemp("films")
    raw = folder / "raw.nut"
    ffmpeg("-f", "lavfi", "-i", FILM, "-c:v", "rawvideo", "-pix_fmt", "yuv420p", raw)
    for name, options in KINDS.items():
        sound = SOUND if "-c:a" in options else []
        ffmpeg("-i", raw, *sound, *options, folder / name)
    raw.unlink()
    ffmpeg("-itsoffset", 3.4, "-i", folder / "closed.mp4", *SOUND, "-c", "copy", folder / "late.mkv")
    ffmpeg("-itsoffset", 1.52, "-i", folder / "open.mp4", "-c", "copy", folder / "late.mp4")
    return folder


def content(extraction, **params):
    """Files of the store, but the marker, which holds a hash of them."""
    store = extraction.store(**params)
    return {file.name: file.read_bytes() for file in store.path.iterdir() if not file.name.startswith(".")}


def n_pieces(folder, **params):
    decoder = Decoder(ExtractParams(mode="fps", fps=5.0, **PIECES, **params))
    plans = {source.name: plan_pieces(source, decoder) for source in find_sources(folder)}
    return {name: 1 if plan is None else len(plan.pieces) for name, plan in plans.items()}


@pytest.mark.parametrize(
    "params",
    [
        {"fps": 25.0, "cuts": {"threshold": 5.0}},
        pytest.param({"mode": "every_s", "every_s": 0.3}, marks=pytest.mark.slow),
        {"mode": "count", "count": 7, "last_frame": True},
        pytest.param({"fps": 0.7, "last_frame": True}, marks=pytest.mark.slow),
    ],
)
def test_pieces_give_the_bytes_of_one_process(extraction, films, params):
    extraction.videos.rmdir()
    extraction.videos.symlink_to(films)
    whole = content(extraction, **params, piece_s=None)
    assert content(extraction, **params, **PIECES) == whole
    if "cuts" in params:
        cuts = extraction.store(**params, **PIECES).frames.to_pandas().groupby("video")["cut"].sum()
        assert (cuts >= 4).all()


def test_they_are_pieces_indeed(films):
    found = n_pieces(films)
    assert all(found[name] >= 3 for name in {*IN_PIECES, "late.mkv", "late.mp4"} - {"refresh.mp4"}), found
    assert found["one_gop.mp4"] == found["stream.ts"] == 1


def watched(monkeypatch):
    """(pieces decoded, borders taken away) of what is extracted from now on."""
    decoded, broken = [], []
    decode, borders = long_video.decode_piece, long_video.broken_borders
    monkeypatch.setattr(
        long_video, "decode_piece", lambda *args: (given := decode(*args), decoded.append((args[1], given)))[0]
    )
    monkeypatch.setattr(long_video, "broken_borders", lambda *args: broken.extend(found := borders(*args)) or found)
    return decoded, broken


def test_borders_hold_so_that_nothing_is_decoded_twice(extraction, films, monkeypatch):
    decoded, broken = watched(monkeypatch)
    for name in ("open.mkv", "late.mp4", "hevc.mkv"):
        (extraction.videos / name).symlink_to(films / name)
    content(extraction, fps=5.0, **PIECES)
    assert len(decoded) == sum(n_pieces(extraction.videos).values()) >= 12
    assert not broken


def damaged(data, share, n=60):
    at = int(len(data) * share)
    return data[:at] + bytes(range(n)) + data[at + n :]


@pytest.mark.parametrize("name", [pytest.param("closed.mp4", marks=pytest.mark.slow), "open.mkv"])
def test_damage_gives_the_same_frames(extraction, films, name):
    data = (films / name).read_bytes()
    for number, share in enumerate((0.2, 0.45, 0.8)):
        (extraction.videos / f"{number}_{name}").write_bytes(damaged(data, share))
    (extraction.videos / f"cut_{name}").write_bytes(data[: int(len(data) * 0.6)])
    fast = extraction.videos / "front.mp4"
    ffmpeg("-i", films / name, "-c", "copy", "-movflags", "+faststart", fast)
    fast.write_bytes(fast.read_bytes()[: int(fast.stat().st_size * 0.6)])
    params = {"fps": 25.0, "cuts": {}, "max_bad_share": 0.9}
    whole, videos = content(extraction, **params, piece_s=None), extraction.store(**params, piece_s=None).videos
    ours = content(extraction, **params, **PIECES)
    assert {name for name in whole if ours[name] != whole[name]} <= {"videos.parquet", "store.json"}
    told = extraction.store(**params, **PIECES).videos
    assert told.drop_columns("reason").equals(videos.drop_columns("reason"))
    for one, other in zip(told["reason"].to_pylist(), videos["reason"].to_pylist(), strict=True):
        # over a border ffmpeg's threads may write into each other's lines, so that of two errors the first may be lost
        assert one == other or (one.startswith("partial: ") and other.startswith("partial: "))
    assert sum(reason.startswith("partial: ") for reason in told["reason"].to_pylist()) >= 3


def test_a_border_at_which_pictures_differ_is_taken_away(extraction, films, monkeypatch):
    """Were a keyframe no clean start, the later piece would show other pictures: its checksums are made to differ."""
    (extraction.videos / "v.mp4").symlink_to(films / "open.mp4")
    whole = content(extraction, fps=25.0, cuts={}, piece_s=None)
    decoded, broken = watched(monkeypatch)
    decode = long_video.decode_piece

    def spoilt(source, piece, plan, *args):
        given = decode(source, piece, plan, *args)
        if piece == plan.pieces[2]:
            object.__setattr__(given, "border", tuple((at, "0") for at, _ in given.border))
        return given

    monkeypatch.setattr(long_video, "decode_piece", spoilt)
    assert content(extraction, fps=25.0, cuts={}, **PIECES) == whole
    assert broken[:2] == [1, 2]
    assert len(decoded) > n_pieces(extraction.videos)["v.mp4"]


def test_a_kill_costs_no_finished_piece(extraction, films, monkeypatch):
    shutil.copy(films / "closed.mp4", extraction.videos / "v.mp4")
    params = {"mode": "count", "count": 100, "last_frame": True, **PIECES, "workers": 1}
    whole = content(extraction, **params | {"piece_s": None})
    decoded, _ = watched(monkeypatch)
    decode = long_video.decode_piece

    def die_at_the_fourth(*args):
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(long_video, "decode_piece", die_at_the_fourth)
    assert extraction(**params) == ExitCode.INTERRUPTED
    monkeypatch.setattr(long_video, "decode_piece", decode)
    monkeypatch.setattr(long_video, "plan_pieces", lambda *args: pytest.fail("the plan was kept"))
    os.utime(extraction.videos / "v.mp4", (1, 1))  # a pod that starts again has its inputs copied anew
    assert content(extraction, **params) == whole
    pieces = [piece for piece, _ in decoded]
    assert len(set(pieces)) == len(pieces) == n_pieces(films)["closed.mp4"]


@pytest.mark.parametrize("piece_s", [None, 0.7])
def test_a_file_that_changes_meanwhile_is_left_out_and_said_so(extraction, films, monkeypatch, capsys, piece_s):
    for name in ("a.mp4", "b.mp4"):
        (extraction.videos / name).write_bytes((films / "closed.mp4").read_bytes())
    decode = Decoder.decode

    def grow(self, source, command, jpegs):
        if source.key == "a":
            with source.path.open("ab") as file:
                file.write(b"more")
        return decode(self, source, command, jpegs)

    monkeypatch.setattr(Decoder, "decode", grow)
    store = extraction.store(fps=5.0, piece_s=piece_s, split_mb=0)
    assert store.videos["status"].to_pylist() == ["bad", "ok"]
    assert "skipped a.mp4: the file changed while it was read" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_length():
    """Of an hour's report only the times stay: a line of the log is some hundred bytes, its time is 8."""
    import tracemalloc

    from components.extract_frames.report import read_report

    line = b"[metadata@taken @ 0x7f26ec010d80] [info] frame:%-4d pts:%-7d pts_time:0.5\n"
    tracemalloc.start()
    read_report(line % (n, n) for n in range(100_000))
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_ffmpeg_tells_a_piece_the_times_of_the_whole(films):
    """What all rests on: with these options the clock is the one of a process that does not seek."""
    said = []
    for seek in ([], ["-ss", "6", "-noaccurate_seek", "-copyts", "-start_at_zero"]):
        command = [ffmpeg_exe(), "-v", "info", "-nostdin", *seek, "-i", str(films / "late.mkv")]
        command += ["-vf", "showinfo", "-f", "null", "-"]
        lines = subprocess.run(command, capture_output=True, check=True).stderr.decode()
        said.append(set(re.findall(r"pts: *(\d+) .* checksum:(\w+)", lines)))
    assert 10 < len(said[1]) < len(said[0]) and said[1] < said[0]
