import io
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import StageError
from components.download.archives import is_archive, unpack, unpack_all
from components.download.config import Unpack

LIMITS = Unpack()


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("make", "ending"), [(make_zip, "zip"), (make_tar, "tar.gz")])
def test_an_archive_unpacks_whole(tmp_path, make, ending):
    members = [("a/b.txt", b"one"), ("c.bin", bytes(range(256)))]
    assert unpack(make(tmp_path / f"x.{ending}", members), tmp_path / "out", LIMITS) == 2
    assert {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")
    } == dict(members)


@pytest.mark.parametrize(("make", "ending"), [(make_zip, "zip"), (make_tar, "tar.gz")])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a/../b", "..", "C:/evil"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, make, ending, name):
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in" / f"x.{ending}", [("fine", b"1"), (name, b"2")])
    with pytest.raises(StageError, match="its path leaves the folder"):
        unpack(archive, tmp_path / "in" / "out", LIMITS)
    assert not (tmp_path / "in" / "out").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(StageError, match="links and devices are not unpacked"):
        unpack(tmp_path / "x.tar", tmp_path / "out", LIMITS)


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(StageError, match="links and devices are not unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "out", LIMITS)


def test_bombs_are_refused_by_ratio_size_and_count(tmp_path):
    bomb = make_zip(tmp_path / "bomb.zip", [("zeros", bytes(100 << 20))])
    with pytest.raises(StageError, match="more than the limits"):
        unpack(bomb, tmp_path / "out", LIMITS)
    small = make_zip(tmp_path / "small.zip", [("a", bytes(3 << 20))])
    with pytest.raises(StageError, match="more than the limits"):
        unpack(small, tmp_path / "out", Unpack(max_gib=0.002))
    many = make_zip(tmp_path / "many.zip", [(str(i), b"") for i in range(5)])
    with pytest.raises(StageError, match="more than 4 files"):
        unpack(many, tmp_path / "out", Unpack(max_members=4))


@pytest.mark.parametrize(("make", "ending"), [(make_zip, "zip"), (make_tar, "tar.gz")])
def test_a_half_archive_is_said_to_be_damaged(tmp_path, make, ending):
    import random

    noise = random.Random(0).randbytes(200_000)
    archive = make(tmp_path / f"x.{ending}", [("a", noise)])
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(StageError, match="damaged or ends early"):
        unpack(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


@given(
    st.dictionaries(
        st.from_regex(r"[a-c]{1,2}(/[d-f]{1,2}){0,2}\.t", fullmatch=True), st.binary(max_size=20), min_size=1
    )
)
def test_what_was_packed_comes_out(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("zip")
    archive = make_zip(folder / "x.zip", members.items())
    unpack(archive, folder / "out", LIMITS)
    files = {
        p.relative_to(folder / "out").as_posix(): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()
    }
    assert files == members


def test_archives_give_way_to_what_they_hold(tmp_path):
    make_zip(tmp_path / "frames.zip", [("JPEGImages/a.jpg", b"1")])
    make_tar(tmp_path / "masks.tgz", [("Annotations/a.png", b"2")])
    (tmp_path / "notes.zip").write_text("no archive at all")
    assert not is_archive(tmp_path / "notes.zip")
    assert unpack_all(tmp_path, LIMITS) == 2
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["Annotations/a.png", "JPEGImages/a.jpg", "notes.zip"]


def test_two_archives_never_overwrite_each_other(tmp_path):
    make_zip(tmp_path / "a.zip", [("same.txt", b"1")])
    make_zip(tmp_path / "b.zip", [("same.txt", b"2")])
    with pytest.raises(StageError, match="another file of this name"):
        unpack_all(tmp_path, LIMITS)
