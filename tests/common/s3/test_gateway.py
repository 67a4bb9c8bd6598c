"""The same against a server that checks signatures, digests and conditions: Versity's gateway, over plain files."""

import itertools
import random

import pytest

from components.common import outputs
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.common.s3.copies import local_copy
from components.common.s3.params import S3Params
from components.common.s3.store import Store
from components.common.s3.upload import expected_etag, upload_file, upload_folder
from tests.common.s3.proxy import Fault
from tests.common.s3.servers import gateway
from tests.common.s3.test_frames import places, write

pytestmark = pytest.mark.slow
_numbers = itertools.count()
LARGE = random.Random(4).randbytes(11 << 20)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """In place of moto's; `proxy`, `store` and the rest follow."""
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def bucket(endpoint, s3_env):
    name = f"films-{next(_numbers)}"
    Store(S3Params(endpoint_url=endpoint)).call(name, "create_bucket", Bucket=name)
    return f"s3://{name}"


def test_frames_by_range_through_faults(store, bucket, proxy, tmp_path):
    folder, address = write(tmp_path / "frames"), f"{bucket}/data/frames"
    upload_folder(store, folder, address)
    proxy.hurt(
        *[Fault("cut", 100), Fault("status", 503), Fault("drop"), Fault("short", 9), Fault("reset")] * 3,
        when=lambda request: len(proxy.requests) % 2 == 0,
    )
    local, remote = FrameStore(folder), FrameStore(address)
    assert remote.frames.equals(local.frames)
    assert [remote.read(*place) for place in places(local)] == [local.read(*place) for place in places(local)]
    assert remote.fingerprint == local.fingerprint
    assert sum(request.fault is not None for request in proxy.requests) >= 5
    upload_folder(store, write(tmp_path / "other", seed=5), address)
    with pytest.raises(StageError, match="was replaced while it was read"):
        remote.files.store.read(remote.files.objects["shard-000000.tar"], 0, 10)


def test_parts_names_and_copies(store, bucket, proxy, tmp_path):
    folder = tmp_path / "made"
    for name, data in {"a b+c%41&d=ü.txt": b"odd", "sub/large": LARGE, "sub/empty": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    outputs.mark(folder, "index", "index")
    proxy.hurt(*[Fault("status", 500), Fault("drop"), Fault("reset")], when=lambda r: r.method in ("PUT", "POST"))
    upload_folder(store, folder, f"{bucket}/made")
    found = store.head(f"{bucket}/made/sub/large")
    assert found.etag.strip('"') == expected_etag(folder / "sub" / "large", 5 << 20)
    proxy.hurt()
    upload_folder(store, folder, f"{bucket}/made")
    assert not any(request.method == "PUT" for request in proxy.requests)
    copy = local_copy(f"{bucket}/made", tmp_path / "copies", store)
    assert outputs.content_hash(copy) == outputs.content_hash(folder)
    assert (copy / "sub" / "large").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key does not belong to the access key"),
        (
            "AWS_ACCESS_KEY_ID",
            "nobody",
            "the store does not know this access key|No user exists with the provided access key",
        ),
    ],
)
def test_wrong_credentials_are_said_without_the_secret(bucket, monkeypatch, proxy, variable, value, line):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StageError, match=line) as caught:
        Store().listing(f"{bucket}/")
    assert len(proxy.requests) == 1
    assert "only-for-tests" not in str(caught.value)


def test_a_body_that_was_damaged_on_the_way_is_refused(store, bucket):
    with pytest.raises(StageError, match=r"does not answer after 4 tries, .*Digest"):
        name = bucket.removeprefix("s3://")
        store.call(bucket, "put_object", Bucket=name, Key="x", Body=b"abc", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
    assert store.head(f"{bucket}/x") is None


def test_missing_things_are_named(store, bucket, tmp_path):
    with pytest.raises(StageError, match="no such bucket"):
        store.listing("s3://no-such-bucket-here/x/")
    with pytest.raises(StageError, match=f"nothing at this address: {bucket}/none"):
        FrameStore(f"{bucket}/none")
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(StageError, match="no such bucket"):
        upload_file(store, tmp_path / "f", "s3://no-such-bucket-here/f")
