"""What counts as a video, and what it is called."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.extract_frames.find import find_sources


def touch(file, data=b"x"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def names(folder, **options):
    return [source.name for source in find_sources(folder, **options)]


def test_videos_are_found_at_any_depth_in_a_fixed_order(tmp_path):
    for name in ("b.mp4", "a/z.MKV", "a/c/d.webm", "notes.txt", "labels.json", "a/.hidden.mp4", "song.mp3", "sub.srt"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a/c/d.webm", "a/z.MKV", "b.mp4"]


def test_a_file_without_extension_is_known_by_its_first_bytes(tmp_path):
    touch(tmp_path / "dQw4w9WgXcQ", b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00")
    touch(tmp_path / "matroska", b"\x1a\x45\xdf\xa3\x01\x00\x00\x00")
    touch(tmp_path / "LICENSE", b"Apache License, Version 2.0")
    touch(tmp_path / "short", b"ft")
    assert names(tmp_path) == ["dQw4w9WgXcQ", "matroska"]


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    touch(tmp_path / "a" / "v.mp4")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "w.mp4").symlink_to(tmp_path / "a" / "v.mp4")  # how DVC may place its files
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a/v.mp4", "gone.mp4", "w.mp4"]


def test_a_pipe_with_a_video_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    assert names(tmp_path) == []


def test_one_name_in_two_folders_and_two_formats_of_one_name_do_not_collide(tmp_path):
    for name in ("x/take.mp4", "y/take.mp4", "take.mp4", "take.mkv", "take.mp4.avi"):
        touch(tmp_path / name)
    assert {s.name: s.key for s in find_sources(tmp_path)} == {
        "x/take.mp4": "x/take",
        "y/take.mp4": "y/take",
        "take.mp4": "take.mp4",
        "take.mkv": "take.mkv",
        "take.mp4.avi": "take.mp4.avi",
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.sets(
        st.lists(st.sampled_from(["a", "b", "a.mp4", "a.mkv", "b.mp4.avi", "0.jpg"]), min_size=1, max_size=3).map(
            "/".join
        ),
        max_size=9,
    )
)
def test_keys_are_always_distinct(tmp_path, paths):
    """In any tree, of files with and without extension and of folders of images of the same names."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        for path in sorted(paths, reverse=True):
            with contextlib.suppress(OSError):  # a file is where this one wants a folder
                touch(Path(folder, path), b"\0\0\0\0ftyp")
        for images in (False, True):
            found = find_sources(Path(folder), images)
            assert len({source.key for source in found}) == len(found)
            assert all(source.name.startswith(source.key) for source in found)
            order = [os.fsencode(source.name).split(b"/") for source in found if source.place != folder]
            assert order == sorted(order)


def test_folders_of_images_are_videos_only_when_asked_for(tmp_path):
    for name in ("walk/00000.jpg", "walk/00001.jpg", "walk/mask.png", "run/0.png", "v.mp4"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["v.mp4"]
    found = find_sources(tmp_path, image_folders=True)
    assert [(s.name, s.pattern) for s in found] == [("run", "*.png"), ("v.mp4", None), ("walk", "*.jpg")]


def test_a_name_that_is_not_unicode_is_still_found(tmp_path):
    try:
        touch(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (source,) = find_sources(tmp_path)
    assert source.key == "caf\\xe9"
    assert source.path.exists()
