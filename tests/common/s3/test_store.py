"""Requests that are tried again, and what is said when that does not help."""

import random
import time

import pytest

from components.common.errors import ExitCode, StageError
from components.common.s3.params import S3Params
from components.common.s3.store import Object, Store
from tests.common.s3.proxy import Fault

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture
def obj(store, bucket):
    store.put(f"{bucket}/clips/a.bin", CONTENT)
    (found,) = store.listing(f"{bucket}/clips/")
    return found


def test_what_was_put_is_listed_and_read_by_range(store, bucket, obj):
    assert (obj.address, obj.size) == (f"{bucket}/clips/a.bin", len(CONTENT))
    assert store.head(obj.address) == obj
    assert store.read(obj) == CONTENT
    assert store.read(obj, 100_000, 100_007) == CONTENT[100_000:100_007]
    assert store.read(obj, 5, 5) == b""
    store.put(f"{bucket}/clips/empty", b"")
    assert store.read(store.head(f"{bucket}/clips/empty")) == b""
    store.delete(obj.address)
    store.delete(obj.address)
    assert store.head(obj.address) is None


def test_a_listing_of_many_pages_is_whole_and_sorted(store, bucket, monkeypatch):
    names = [f"{bucket}/many/{n}" for n in (2, 11, 1, "a/b", 7)]
    for name in names:
        store.put(name, b"x")
    call = store.call
    monkeypatch.setattr(store, "call", lambda *given, **more: call(*given, **more, MaxKeys=2))
    assert [found.address for found in store.listing(f"{bucket}/many/")] == sorted(names)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500), Fault("status", 503), Fault("status", 429), Fault("drop"), Fault("reset"),
        Fault("cut", 1000), Fault("cut", 0), Fault("short", 1000), Fault("short", 0), Fault("delay", 3),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.amount:g}",
)  # fmt: skip
def test_a_fault_that_passes_costs_a_try_and_nothing_else(store, proxy, obj, fault):
    proxy.hurt(fault)
    assert store.read(obj, 10, 200_000) == CONTENT[10:200_000]
    assert len(proxy.ranges()) == 2
    assert proxy.requests[0].fault == fault


def test_writing_is_tried_again_too(store, proxy, bucket):
    proxy.hurt(Fault("status", 503), Fault("drop"), Fault("cut", 0))
    store.put(f"{bucket}/w", CONTENT)
    assert store.read(store.head(f"{bucket}/w")) == CONTENT
    assert [request.method for request in proxy.requests[:3]] == ["PUT"] * 3


def test_a_store_that_stays_away_is_named_after_the_last_try(store, proxy, obj, capsys):
    proxy.hurt(*[Fault("status", 503)] * 9)
    with pytest.raises(StageError, match=r"the store does not answer after 4 tries.*a\.bin") as caught:
        store.read(obj)
    assert caught.value.code == ExitCode.UNREACHABLE
    assert len(proxy.requests) == 4
    assert "SlowDown, try 3 of 4" in capsys.readouterr().err  # a person sees why it takes so long


def test_waits_grow_and_differ(monkeypatch, s3_env):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    store = Store(S3Params(endpoint_url="http://127.0.0.1:9", retries=6, backoff_s=1, backoff_max_s=4, timeout_s=1))
    with pytest.raises(StageError, match="does not answer after 7 tries"):
        store.head("s3://films/x")
    assert len(set(waits)) == 6
    assert all(0 <= wait <= longest for wait, longest in zip(waits, [1, 2, 4, 4, 4, 4], strict=True))


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_an_object_that_was_replaced_is_never_mixed(store, proxy, obj, kind):
    store.put(obj.address, CONTENT[::-1])
    proxy.hurt(Fault(kind))
    with pytest.raises(StageError, match="was replaced while it was read"):
        store.read(obj, 0, 10)


@pytest.mark.parametrize(
    ("address", "what"), [("s3://no-such-bucket-here/x/", "no such bucket"), ("s3://no-such-bucket-here/", "no such")]
)
def test_a_missing_bucket_is_said_at_once(store, proxy, address, what):
    with pytest.raises(StageError, match=what):
        store.listing(address)
    assert len(proxy.requests) == 1


def test_a_missing_object_is_said_at_once(store, proxy, obj):
    proxy.hurt()
    with pytest.raises(StageError, match="no such object"):
        store.read(Object(obj.bucket, "gone", 5, obj.etag))
    assert len(proxy.requests) == 1


def test_refusals_are_said_at_once(store, proxy, obj):
    proxy.hurt(Fault("status", 403))
    with pytest.raises(StageError, match=r"no access.*check the rights"):
        store.read(obj)
    assert len(proxy.requests) == 1


def test_missing_credentials_are_said(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StageError, match=r"no credentials for the store.*AWS_ACCESS_KEY_ID"):
        Store().listing(f"{bucket}/")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{cache_gb: 3}", "unknown key 'cache_gb', did you mean 'cache_gib'"),
        ("{cache_gib: 0.001}", "holds fewer than 16 blocks"),
        ("[1]", "expected a mapping"),
        ("{", "not readable as YAML"),
        ("{retries: -1}", "'retries' = -1"),
    ],
)
def test_wrong_settings_are_one_line(monkeypatch, text, line):
    monkeypatch.setenv("LONGTAKE_S3", text)
    with pytest.raises(StageError, match=line) as caught:
        S3Params.of_environment()
    assert "LONGTAKE_S3" in str(caught.value)
    assert "\n" not in str(caught.value)
