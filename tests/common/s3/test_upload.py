"""Half an upload is never taken for the whole, and is not sent twice."""

import random

import pytest

from components.common import hashing, outputs
from components.common.errors import StageError
from components.common.s3.artifact import UPLOADING, Artifact, listing_below
from components.common.s3.upload import expected_etag, upload_file, upload_folder
from tests.common.s3.proxy import Fault

LARGE = random.Random(2).randbytes(11 << 20)  # three parts of 5 MiB


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "made")


def build(folder, **files):
    content = {"a.txt": b"alpha", "sub/b.bin": LARGE, "sub/empty": b"", "ümläut (1).txt": b"odd", **files}
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    outputs.mark(folder, "index", "index")
    return folder


def there(store, address):
    return {name: store.read(obj) for name, obj in listing_below(store, address).items()}


def here(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def puts(proxy):
    return [
        r.path.split("?")[0].split("/", 2)[2]
        for r in proxy.requests
        if r.method == "PUT" and "partNumber" not in r.path
    ]


def test_a_folder_arrives_whole_with_its_marker_last(store, bucket, proxy, folder):
    proxy.hurt()
    upload_folder(store, folder, f"{bucket}/x/made")
    assert there(store, f"{bucket}/x/made") == here(folder)
    sent = puts(proxy)
    assert (sent[0], sent[-1]) == (f"x/made/{UPLOADING}", f"x/made/{outputs.MARKER}")
    assert Artifact.find(store, f"{bucket}/x/made").content == outputs.content_hash(folder) == hashing.tree_hash(folder)


def test_the_same_content_is_not_sent_again(store, bucket, proxy, folder):
    upload_folder(store, folder, f"{bucket}/made")
    proxy.hurt()
    upload_folder(store, folder, f"{bucket}/made")
    assert {request.method for request in proxy.requests} <= {"GET", "HEAD"}


def test_what_somebody_took_away_is_sent_again(store, bucket, folder):
    upload_folder(store, folder, f"{bucket}/made")
    store.delete(f"{bucket}/made/sub/b.bin")
    assert Artifact.find(store, f"{bucket}/made").content != outputs.content_hash(folder)
    upload_folder(store, folder, f"{bucket}/made")
    assert there(store, f"{bucket}/made") == here(folder)


def test_another_content_replaces_the_old_one(store, bucket, proxy, folder, tmp_path):
    upload_folder(store, folder, f"{bucket}/made")
    other = build(tmp_path / "other", **{"a.txt": b"other", "c.txt": b"new"})
    (other / "sub" / "empty").unlink()
    outputs.mark(other, "index", "index")
    proxy.hurt()
    upload_folder(store, other, f"{bucket}/made")
    assert there(store, f"{bucket}/made") == here(other)
    assert not any("b.bin" in path for path in puts(proxy))  # was there


@pytest.mark.parametrize("after", [1, 2, 3, 6, 8, 9])  # of ten writes, four of them parts of b.bin
def test_a_broken_upload_is_no_artifact_and_is_gone_on_with(store, bucket, proxy, folder, tmp_path, after):
    """The store goes away for good after some writes, while an older output lies there."""
    upload_folder(store, build(tmp_path / "old", **{"a.txt": b"old", "sub/b.bin": LARGE[::-1]}), f"{bucket}/made")
    proxy.hurt(*[Fault("drop")] * 99, when=lambda r: r.method != "GET" and writes(proxy) >= after)
    with pytest.raises(StageError, match="does not answer"):
        upload_folder(store, folder, f"{bucket}/made")
    proxy.hurt()
    with pytest.raises(StageError, match="not whole"):
        Artifact.find(store, f"{bucket}/made")
    upload_folder(store, folder, f"{bucket}/made")
    assert there(store, f"{bucket}/made") == here(folder)


def writes(proxy):
    return sum(request.method in ("PUT", "DELETE", "POST") and request.fault is None for request in proxy.requests)


def test_every_write_may_fail_once(store, bucket, proxy, folder):
    broken = set()

    def first_time(request):
        fresh = request.method in ("PUT", "POST", "DELETE") and (request.method, request.path) not in broken
        broken.add((request.method, request.path))
        return fresh

    proxy.hurt(*[Fault("status", 503), Fault("reset"), Fault("status", 500)] * 20, when=first_time)
    upload_folder(store, folder, f"{bucket}/made")
    assert there(store, f"{bucket}/made") == here(folder)


def test_what_no_stage_has_made_is_left_alone(store, bucket, folder):
    store.put(f"{bucket}/mine/holiday.mp4", b"mine")
    with pytest.raises(StageError, match=f"holds something else: {bucket}/mine"):
        upload_folder(store, folder, f"{bucket}/mine")
    assert there(store, f"{bucket}/mine") == {"holiday.mp4": b"mine"}
    upload_folder(store, folder, f"{bucket}/min")  # `min` is no part of `mine`
    assert there(store, f"{bucket}/mine") == {"holiday.mp4": b"mine"}


@pytest.mark.parametrize("size", [0, 1, (5 << 20) - 1, 5 << 20, (5 << 20) + 1, 10 << 20])
def test_etags_are_foreseen(store, bucket, tmp_path, size):
    (tmp_path / "f").write_bytes(LARGE[:size])
    upload_file(store, tmp_path / "f", f"{bucket}/f")
    found = store.head(f"{bucket}/f")
    assert found.etag.strip('"') == expected_etag(tmp_path / "f", 5 << 20)
    assert store.read(found) == LARGE[:size]


def test_a_failed_upload_in_parts_leaves_none_behind(store, bucket, proxy, tmp_path):
    (tmp_path / "f").write_bytes(LARGE)
    proxy.hurt(*[Fault("status", 500)] * 99, when=lambda r: "partNumber=3" in r.path)
    with pytest.raises(StageError, match="does not answer"):
        upload_file(store, tmp_path / "f", f"{bucket}/f")
    assert not store.call(bucket, "list_multipart_uploads", Bucket=bucket.removeprefix("s3://")).get("Uploads")
    assert store.head(f"{bucket}/f") is None
