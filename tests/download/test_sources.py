import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.common.errors import StageError
from components.download.config import Transfer
from components.download.sources import http as http_source
from components.download.sources import local

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(1).randbytes(3 << 20)
FAST = Transfer(timeout_s=5, retries=3, backoff_s=0.01)


class Server(http.server.ThreadingHTTPServer):
    """A file server on loopback that can cut, refuse, ignore ranges, change the file and lie."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges = CONTENT, '"one"', True
        self.cut_after, self.cuts, self.pause_s, self.status = None, 0, 0.0, []
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, name="clip.mp4"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        given = self.headers.get("Range")
        server.requests.append(given)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        whole = not (given and server.ranges and self.headers.get("If-Range") == server.etag)
        start = 0 if whole else int(given.removeprefix("bytes=").rstrip("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(200 if whole else 206)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: server.cut_after]
        for i in range(0, len(body), 1 << 16):
            self.wfile.write(body[i : i + (1 << 16)])
            time.sleep(server.pause_s)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = Server()
    yield made
    made.shutdown()


def get(server, tmp_path, **more):
    http_source.fetch(server.url(), tmp_path / "clip.mp4", tmp_path / "parts", more.pop("transfer", FAST), **more)
    return (tmp_path / "clip.mp4").read_bytes()


def test_a_transfer_that_is_cut_goes_on_by_range(server, tmp_path):
    server.cut_after, server.cuts = 1 << 20, 2
    assert get(server, tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    assert server.requests == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_a_file_that_changes_meanwhile_is_fetched_anew(server, tmp_path):
    server.cut_after, server.cuts = 1 << 20, 1
    with pytest.raises(StageError):
        get(server, tmp_path, transfer=Transfer(retries=0))
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert get(server, tmp_path) == CONTENT[::-1]


def test_a_server_without_ranges_is_asked_for_everything(server, tmp_path):
    server.ranges, server.cut_after, server.cuts = False, 1 << 20, 1
    assert get(server, tmp_path) == CONTENT


def test_errors_of_the_server_are_tried_again_and_refusals_are_not(server, tmp_path):
    server.status = [503, 500]
    assert get(server, tmp_path) == CONTENT
    server.status = [404]
    with pytest.raises(StageError, match="the server answers 404: http://127"):
        http_source.fetch(server.url("gone.mp4"), tmp_path / "gone.mp4", tmp_path / "parts", FAST)
    server.status = [503] * 9
    with pytest.raises(StageError, match="not fetched after 4 tries, the server answers 503"):
        http_source.fetch(server.url("down.mp4"), tmp_path / "down.mp4", tmp_path / "parts", FAST)


def test_a_wrong_digest_and_a_size_limit_leave_no_file(server, tmp_path):
    with pytest.raises(StageError, match="the SHA-256 differs: expected 0000"):
        get(server, tmp_path, sha256="0" * 64)
    with pytest.raises(StageError, match=r"larger than transfer\.max_gib"):
        get(server, tmp_path, transfer=Transfer(max_gib=0.001))
    assert not (tmp_path / "clip.mp4").exists()


def test_names_of_addresses_are_safe_and_distinct():
    assert http_source.file_name("http://h/a%2F..%2Fb%00c.mp4?x=1") == "a_.._b_c.mp4"  # no separator is left
    first, second = http_source.file_names(["http://h/a/clip.mp4", "http://h/b/clip.mp4"])
    assert first != second
    assert first.endswith("-clip.mp4")
    with pytest.raises(StageError, match="names no file"):
        http_source.file_name("http://h/")


def test_a_local_folder_is_copied_and_left_alone(tmp_path):
    source = tmp_path / "mine"
    (source / "a").mkdir(parents=True)
    (source / "a" / "x.mp4").write_bytes(b"1")
    (source / "x.mp4").write_bytes(b"2")
    (source / "loop").symlink_to(source)
    (source / "linked.mp4").symlink_to(source / "x.mp4")
    before = {p: p.lstat() for p in source.rglob("*")}
    local.copy(source, tmp_path / "tree")
    copied = {p.relative_to(tmp_path / "tree").as_posix(): p.read_bytes() for p in (tmp_path / "tree").rglob("*.mp4")}
    assert copied == {"a/x.mp4": b"1", "x.mp4": b"2", "linked.mp4": b"2"}
    assert not any(p.is_symlink() for p in (tmp_path / "tree").rglob("*"))
    assert {p: (s.st_mtime_ns, s.st_mode) for p, s in before.items()} == {
        p: (p.lstat().st_mtime_ns, p.lstat().st_mode) for p in before
    }


@pytest.fixture
def store(monkeypatch):
    """A real S3-speaking server on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    for key, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    made.endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=made.endpoint)
    client.create_bucket(Bucket="films")
    client.put_object(Bucket="films", Key="walks/a/clip.mp4", Body=CONTENT * 4)
    client.put_object(Bucket="films", Key="walks/b/clip.mp4", Body=CONTENT)
    client.put_object(Bucket="films", Key="other.mp4", Body=b"other")
    yield made
    made.stop()


def stage(folder, section, *more):
    params = json.dumps({"download": {"clips": section}})
    (folder / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "components.download", "--dataset", "clips", "--data", "data/raw/clips", *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def files(folder):
    data = folder / "data/raw/clips"
    return {
        p.relative_to(data).as_posix(): p.read_bytes() for p in data.rglob("*") if p.is_file() and p.suffix == ".mp4"
    }


def test_an_s3_prefix_comes_in_parts(tmp_path, store):
    section = {"source": "s3", "url": "s3://films/walks/", "endpoint_url": store.endpoint, "part_mib": 5}
    done = stage(tmp_path, section)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"a/clip.mp4": CONTENT * 4, "b/clip.mp4": CONTENT}


def test_s3_goes_on_with_the_parts_that_are_missing(tmp_path, store, monkeypatch):
    from components.common.s3.store import Store
    from components.download.config import S3Params
    from components.download.sources import s3

    section = {"source": "s3", "url": "s3://films/walks/a/clip.mp4", "endpoint_url": store.endpoint}
    params = S3Params.model_validate({**section, "part_mib": 5, "workers": 1, "transfer": {"retries": 1}})
    read, asked = Store.read, []

    def interrupted_once(self, obj, start=0, end=None):
        asked.append(start)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return read(self, obj, start, end)

    monkeypatch.setattr(Store, "read", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        s3.fetch_one(params, params.url, tmp_path / "clip.mp4", tmp_path / "parts")
    assert not (tmp_path / "clip.mp4").exists()
    s3.fetch_one(params, params.url, tmp_path / "clip.mp4", tmp_path / "parts")
    assert (tmp_path / "clip.mp4").read_bytes() == CONTENT * 4
    assert asked.count(0) == 1  # the finished part was not fetched twice


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s3://nobody/x/", "no such bucket"),
        ("s3://films/gone.mp4", "no such object"),
        ("s3://films/n/", "nothing below"),
    ],
)
def test_what_is_not_in_the_store_is_named(tmp_path, store, url, line):
    done = stage(tmp_path, {"source": "s3", "url": url, "endpoint_url": store.endpoint})
    assert done.returncode == 2
    assert f"download: {line}" in done.stderr
    assert url in done.stderr


def test_a_list_keeps_going_past_dead_addresses(tmp_path, server, store):
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    good = hashlib.sha256(CONTENT).hexdigest()
    rows = [
        f"{server.url()} {good}",
        "# a comment",
        "",
        "s3://films/other.mp4",
        "mine.mp4",
        "gone.mp4",
        f"{server.url('b.mp4')} {'0' * 64}",
    ]
    (tmp_path / "list.txt").write_text("\n".join(rows))
    section = {
        "source": "list",
        "path": "list.txt",
        "endpoint_url": store.endpoint,
        "max_dead_share": 0.5,
        "transfer": {"retries": 0},
    }
    done = stage(tmp_path, section)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"clip.mp4": CONTENT, "other.mp4": b"other", "mine.mp4": b"mine"}
    dead = json.loads((tmp_path / "data/raw/clips/MANIFEST.json").read_text())["dead"]
    assert [d["address"].rpartition("/")[2] for d in dead] == ["gone.mp4", "b.mp4"]
    failed = stage(tmp_path, {**section, "max_dead_share": 0.1})
    assert failed.returncode == 2
    assert "2 of 5 addresses failed, more than max_dead_share = 0.1" in failed.stderr
    assert len(files(tmp_path)) == 3  # the earlier output stands


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"source": "locla", "path": "x"}, "source 'locla' is unknown, did you mean 'local'?"),
        ({"source": "local", "path": "nowhere"}, "no such file or folder: nowhere"),
        ({"source": "local", "paths": "x"}, "unknown key 'paths', did you mean 'path'?"),
        ({"source": "http", "files": []}, "'files' = []"),
        ({"source": "list", "path": "none.txt"}, "no such list file: none.txt"),
        ({"source": "local", "path": ".", "root": "../.."}, "is no folder of what was fetched"),
    ],
)
def test_bad_parameters_are_one_line(tmp_path, section, line):
    done = stage(tmp_path, section)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data/raw/clips").exists()


def part_bytes(folder):
    return max((p.stat().st_size for p in folder.glob(".cache/download/clips/*/parts/*.part")), default=0)


def test_a_killed_download_goes_on_and_ends_equal(tmp_path, server):
    server.pause_s = 0.02
    section = {"source": "http", "files": [{"url": server.url("a.mp4")}, {"url": server.url("b.mp4")}]}
    (tmp_path / "params.yaml").write_text(json.dumps({"download": {"clips": section}}))
    command = [sys.executable, "-m", "components.download", "--dataset", "clips", "--data", "data/raw/clips"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_TRACKING": "off"}
    for at_hand in (1, 2 << 20):  # bytes that came before the kill
        running = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while part_bytes(tmp_path) < at_hand and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait(10)
        assert not (tmp_path / "data/raw/clips").exists()
    server.pause_s = 0.0
    assert stage(tmp_path, section).returncode == 0
    assert files(tmp_path) == {"a.mp4": CONTENT, "b.mp4": CONTENT}
    assert any(r for r in server.requests if r)  # some of it came by range


def test_an_unreadable_file_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root can read everything")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.mp4").write_bytes(b"1")
    (tmp_path / "mine" / "x.mp4").chmod(0)
    done = stage(tmp_path, {"source": "local", "path": "mine"})
    assert done.returncode == 2
    assert "the file cannot be read: mine/x.mp4" in done.stderr


def test_a_file_repaired_between_two_runs_is_copied_anew(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.json").write_text("{]")
    tried = tmp_path / "tried"
    local.copy(mine, tried)
    (mine / "a.json").write_text("{}")  # of the same size
    os.utime(mine / "a.json", ns=(0, 10**9))
    local.copy(mine, tried)
    assert (tried / "a.json").read_text() == "{}"
