"""What a kill leaves of the manifest and of the packs."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.extract_frames import packs
from components.extract_frames.packs import MANIFEST, Manifest, Packs


@settings(max_examples=50, deadline=None)
@given(entries=st.lists(st.tuples(st.text(max_size=6), st.integers() | st.text(max_size=5)), max_size=6), cut=st.data())
def test_a_manifest_that_is_cut_off_anywhere_keeps_its_whole_lines(tmp_path_factory, entries, cut):
    file = tmp_path_factory.mktemp("m") / MANIFEST
    manifest, ends = Manifest(file), [0]
    for name, value in entries:
        manifest.add(name, value)
        ends.append(file.stat().st_size)
    manifest.close()
    at = cut.draw(st.integers(0, ends[-1]))
    os.truncate(file, at)
    whole = dict(entries[: sum(end <= at for end in ends) - 1])
    again = Manifest(file)
    assert len(again) == len(whole) and all(again[name] == value for name, value in whole.items())
    again.add("more", [1])
    again.close()
    assert Manifest(file)["more"] == [1]


def test_packs_of_a_killed_process_are_read_and_not_written_to(tmp_path):
    first = Packs(tmp_path)
    with first.one() as a, first.one() as b:
        a.write(b"of a")
        b.write(b"of b")
    assert (a.number, b.number) == (0, 1)
    with first.one() as again:  # an idle one is taken before another is begun
        again.write(b"more")
    second = Packs(tmp_path)
    with second.one() as c:
        c.write(b"of c")
    assert c.number == 2
    assert [second.read(number, 0, 4) for number in (0, 1, 2)] == [b"of a", b"of b", b"of c"]
    assert second.read(again.number, 4, 4) == b"more"
    first.close()
    second.close()


def test_what_was_written_in_vain_is_given_back(tmp_path, monkeypatch):
    store = Packs(tmp_path)
    with store.one() as pack:
        pack.write(b"kept")
    write = os.write
    monkeypatch.setattr(packs.os, "write", lambda fd, data: write(fd, data[:3]) if len(data) > 3 else full())
    with pytest.raises(OSError, match="No space"), store.one() as pack:
        pack.write(b"12345")
    monkeypatch.undo()
    with store.one() as pack:
        assert pack.end == 4
        pack.write(b" and more")
    assert (tmp_path / "0.pack").read_bytes() == b"kept and more"
    store.close()


def full():
    raise OSError(errno.ENOSPC, "No space left on device")
