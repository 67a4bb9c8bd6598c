"""Parsing what ffmpeg writes to standard error."""

import math

from hypothesis import given
from hypothesis import strategies as st

from components.extract_frames.report import read_report

HEADER = b"""\
[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/videos/a.mp4':
[info]   Duration: 00:01:13.06, start: 0.000000, bitrate: 412 kb/s
[info]   Stream #0:0[0x1](und): Video: mjpeg (Baseline) (jpeg / 0x6765706A), yuvj444p, 600x600, 90k tbr (attached pic)
[info]   Stream #0:1[0x2](eng): Video: h264 (High), yuv420p(tv, bt709), 320x180 [SAR 1:1], 71 kb/s, 29.97 fps, 30k tbn
[info]     Metadata:
[info]       handler_name    : VideoHandler
[info]     Side data:
[info]       displaymatrix: rotation of -90.00 degrees
[info]   Stream #0:2[0x3](eng): Audio: aac (LC) (mp4a / 0x6134706D), 8000 Hz, stereo, fltp, 72 kb/s (default)
"""
MAPPING = b"[info] Stream mapping:\n[info]   Stream #0:1 (h264) -> scdet:default\n"
BASE = b"[graph 0 input from stream 0:1 @ 0x7f80d4] [verbose] w:320 h:180 tb:1/30000 fr:30000/1001 sar:1/1\n"
FRAME = b"[metadata@taken @ 0x7f26ec010d80] [info] frame:%-4d pts:%-7s pts_time:0.5\n"
CUT = b"[metadata@cut @ 0x7effa4002b40] [info] frame:30   pts:%d   pts_time:1.2\n"


def lines(*parts):
    return b"".join(parts).splitlines(keepends=True)


def test_header_times_and_cuts_are_read():
    report = read_report(lines(HEADER, MAPPING, BASE, FRAME % (0, b"0"), CUT % 1001, FRAME % (1, b"15015")))
    assert report.probe is not None
    assert (report.probe.codec, report.probe.width, report.probe.height) == ("h264", 320, 180)
    assert (report.probe.fps, report.probe.duration_s, report.probe.rotation) == (30000 / 1001, 73.06, 90)
    assert list(report.times_s) == [0.0, 15015 / 30000]
    assert list(report.cuts) == [1001]
    assert not (report.trouble or report.damage or report.interrupted)


def test_errors_while_opening_and_while_decoding_are_told_apart():
    opening = b"[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d0c8] [error] Referenced QT chapter track not found\n"
    decoding = b"[vist#0:0/h264 @ 0x1] [dec:h264 @ 0x2] [error] Error submitting packet: Invalid data\n"
    report = read_report(lines(opening, HEADER, MAPPING, BASE, decoding, FRAME % (0, b"0")))
    assert report.trouble == "Referenced QT chapter track not found"
    assert report.damage == "Error submitting packet: Invalid data"


def test_a_frame_without_time_is_not_a_number():
    report = read_report(lines(HEADER, MAPPING, BASE, FRAME % (0, b"NOPTS")))
    assert [math.isnan(t) for t in report.times_s] == [True]


def test_border_pictures_and_errors_before_them_are_told_apart():
    error = b"[h264 @ 0x555aa1627500] [error] mmco: unref short failure\n"
    border = b"[showinfo@border @ 0x7f] [info] n:   0 pts:  -512 pts_time:-1 [info] Output #0, null\n"
    border += b"checksum:0A1B2C3D plane_checksum:[00 \n"  # another thread's line came between
    other = error.replace(b"mmco", b"late")
    report = read_report(lines(HEADER, MAPPING, BASE, error, border, FRAME % (0, b"0"), other))
    assert (report.early, report.late) == ("mmco: unref short failure", "late: unref short failure")
    assert (report.border, list(report.ticks)) == ([(-512, "0A1B2C3D")], [0])
    assert report.container == "mov,mp4,m4a,3gp,3g2,mj2"


def test_an_ffmpeg_that_was_told_to_end_is_noticed():
    assert read_report([b"[info] Exiting normally, received signal 15.\n"]).interrupted


@given(st.lists(st.binary(max_size=80)))
def test_no_line_makes_it_stumble(noise):
    report = read_report([*lines(HEADER, MAPPING, BASE), *noise])
    assert report.probe is not None


@given(st.lists(st.integers(-(2**40), 2**40), max_size=30), st.integers(1, 10**6))
def test_times_are_exact_multiples_of_the_tick(ticks, rate):
    base = BASE.replace(b"1/30000", b"1/%d" % rate)
    report = read_report([base, *(FRAME % (n, b"%d" % t) for n, t in enumerate(ticks))])
    assert list(report.times_s) == [t / rate for t in ticks]
