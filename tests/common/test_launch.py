"""The launcher's parts that need no cluster: its command line, one node's processes, logs, and who watches whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import ExitCode, StageError
from components.common.launch import watched
from components.common.launch.__main__ import main, parser
from components.common.launch.handover import Handover
from components.common.launch.log import Log
from components.common.launch.settings import NodeSettings, launch_command
from components.common.launch.torchrun import judged, module_of
from pipelines.cluster import Cluster
from pipelines.needs import Needs

ROOT = Path(__file__).resolve().parents[2]
NEEDS = Needs(image="train", cpu=16, memory_gib=64, gpus=8, nodes=4, accelerator="nvidia.com/gpu", timeout_h=168)


def settings(**changes: Any) -> NodeSettings:
    return NodeSettings.of(Cluster.read().model_dump(), {**NEEDS.model_dump(), **changes})


def test_settings_come_from_the_cluster_and_the_stage() -> None:
    told, cluster = settings(), Cluster.read()
    assert told.image == cluster.images["train"] and told.service_account == cluster.service_account
    assert told.secret == cluster.secret and told.secret_keys == cluster.secret_keys
    assert (told.cpu, told.memory_gib, told.timeout_h, told.accelerator) == (16, 64, 168, "nvidia.com/gpu")
    assert told.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert settings(gpus=0).tolerations == []


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(min_size=1), st.text()))
def test_settings_survive_the_command_line_and_meet_no_template(env: dict[str, str], selector: dict[str, str]) -> None:
    told = settings().model_copy(update={"env": env, "node_selector": selector})
    command = launch_command(4, 8, told)
    args = parser().parse_args([*command[3:], "python", "-m", "components.pretrain"])
    assert (args.nodes, args.gpus) == (4, 8) and args.command[-3:] == ["python", "-m", "components.pretrain"]
    assert NodeSettings.model_validate(json.loads(args.settings)) == told
    if not any("{{" in text or "}}" in text for pair in (env | selector).items() for text in pair):
        assert "{{" not in args.settings and "}}" not in args.settings, "Argo would take it for a template of its own"


def test_one_process_needs_no_launcher() -> None:
    assert launch_command(1, 0) == launch_command(1, 1) == []
    assert launch_command(1, 8)[-3:] == ["--gpus", "8", "--"]


BAD = [
    (["--processes", "0", "--", "python", "-m", "x"], "count from 1"),
    (["--gpus", "-1", "--", "python", "-m", "x"], "count from 1"),
    (["--processes", "2", "--", "bash", "-c", "x"], "expected `python -m MODULE ...`"),
    (["--processes", "2"], "expected `python -m MODULE ...`"),
    (["--as-node", "--", "python", "-m", "x"], "no PET_NNODES in the environment"),
    (["--nodes", "2", "--settings", "{", "--", "python", "-m", "x"], "not JSON"),
    (["--nodes", "2", "--settings", "[]", "--", "python", "-m", "x"], "missing key 'image'"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[row[1] for row in BAD])
def test_a_wrong_command_is_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_help_answers_at_once() -> None:
    code = "import sys\nfrom components.common.launch.__main__ import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'kubernetes', 'kfp'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--nodes" in done.stdout, done.stderr


class Failure:
    """As torchrun describes a process that failed."""

    def __init__(self, exitcode: int, timestamp: int = 100, message: str = "") -> None:
        self.exitcode, self.timestamp, self.message = exitcode, timestamp, message
        self.error_file_data = {"message": message} if message else {}


JUDGED: list[tuple[dict[int, Failure], int, str]] = [
    ({0: Failure(2), 1: Failure(-15)}, 2, ""),
    ({0: Failure(130), 1: Failure(-9)}, 6, "process 1 was ended by SIGKILL (most often out of memory"),
    ({0: Failure(6), 1: Failure(-9), 2: Failure(6)}, 6, "process 1 was ended by SIGKILL"),
    ({0: Failure(6), 3: Failure(1)}, 1, "process 3: exit code 1"),
    ({0: Failure(130), 1: Failure(2, message="no clip index: x")}, 2, "process 1: no clip index: x"),
    ({0: Failure(2), 1: Failure(2, message="the same")}, 2, ""),
    ({0: Failure(3), 1: Failure(-9, timestamp=131)}, 3, ""),  # torchrun kills what does not end for 30 s
    ({1: Failure(77)}, 1, "process 1: exit code 77"),
    ({1: Failure(-11)}, 6, "process 1 was ended by SIGSEGV"),
]


@pytest.mark.parametrize(("failures", "code", "words"), JUDGED)
def test_the_cause_is_told_from_its_consequences(failures: dict[int, Failure], code: int, words: str) -> None:
    if words:
        with pytest.raises(StageError, match="process") as raised:
            judged(failures)
        assert raised.value.code == code and words in str(raised.value)
    else:
        assert judged(failures) == code


RANKED = """
import os, sys, time
rank = int(os.environ["RANK"])
sys.stdout.write(f"rank {rank} of {os.environ['WORLD_SIZE']}\\n")
sys.stdout.flush()
if sys.argv[1] != "fine" and rank == 0:
    print("ranked: refused", file=sys.stderr)
    sys.exit(int(sys.argv[1]))
time.sleep(0 if sys.argv[1] == "fine" else 60)
"""


@pytest.mark.parametrize(("how", "code"), [("fine", 0), ("3", 3)])
def test_torchrun_ends_with_the_code_and_the_line_of_the_stage(how: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "ranked.py").write_text(RANKED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [
        sys.executable,
        "-m",
        "components.common.launch",
        "--processes",
        "2",
        "--",
        "python",
        "-m",
        "ranked",
        how,
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert done.stderr == ("" if code == 0 else "ranked: refused\n")
    if code == 0:
        assert sorted(done.stdout.split("\n")) == ["", "rank 0 of 2", "rank 1 of 2"]


def test_module_of_takes_any_python() -> None:
    assert module_of(["/usr/bin/python3.11", "-m", "a.b", "--c"]) == ["a.b", "--c"]


class Source:
    """The log of a pod as an API serves it: any window that holds what is new."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.back = 0

    def log(self, pod: str, since_s: int | None = None, tail: int | None = None) -> list[str]:
        return self.lines[max(0, len(self.lines) - self.back) :] if since_s is not None else self.lines[-(tail or 0) :]


@given(st.lists(st.tuples(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), max_size=5), st.integers(0, 9))))
def test_every_line_of_a_log_is_shown_once(chunks: list[tuple[list[tuple[int, int]], int]]) -> None:
    """Lines may share a time; windows overlap by any number of lines, but miss none."""
    source, shown, now, expected = Source(), [], 0, []
    log = Log(source)  # type: ignore[arg-type]
    log._print = shown.append  # type: ignore[method-assign]
    pod = type("Pod", (), {"metadata": type("Meta", (), {"name": "p"})})
    for lines, overlap in chunks:
        for later, word in lines:
            now += later
            source.lines.append(f"2026-01-01T00:00:00.{now:09d}Z {word} {len(source.lines)}")
            expected.append(source.lines[-1].partition(" ")[2])
        source.back = len(lines) + overlap
        log.show(pod)
    assert shown == expected


def test_a_node_ends_itself_once_nobody_watches(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom components.common.launch import watched\n"
        "with watched.by(Path(sys.argv[1]), alone_s=1.5, look_every_s=0.05):\n"
        "    print('in', flush=True)\n    time.sleep(60)"
    )
    watched.touch(file)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    node = subprocess.Popen([sys.executable, "-c", code, str(file)], env=env, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None and node.stdout.readline() == "in\n"
    for _ in range(30):  # twice as long as it would bear alone
        watched.touch(file)
        time.sleep(0.1)
    assert node.poll() is None
    assert node.wait(30) == -signal.SIGTERM and "nobody watches" in node.stdout.read()
    node.stdout.close()


def test_a_node_of_a_job_given_up_does_not_start(tmp_path: Path) -> None:
    for file in (tmp_path / "never", tmp_path / "long ago"):
        if file.name == "long ago":
            file.touch()
            os.utime(file, (time.time() - 2 * watched.ALONE_S, time.time() - 2 * watched.ALONE_S))
        with pytest.raises(StageError, match="nobody watches"), watched.by(file):
            raise AssertionError("it started")
    with watched.by(None):
        pass


def test_an_output_that_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "model"
    shared.mkdir(parents=True)
    (shared / "w").write_text("weights")
    from components.common import outputs

    outputs.mark(shared, "pretrain", "model")
    (shared / "w").write_text("WEIGHTS")  # as many bytes, other content
    handover = Handover((), {shared: tmp_path / "model"}, {})
    assert handover.made
    with pytest.raises(StageError, match="changed while it was copied"):
        handover.collect()
    assert not (tmp_path / "model").exists()
    with pytest.raises(StageError, match="an output is missing"):
        Handover((), {tmp_path / "nothing": tmp_path / "model"}, {}).collect()


def test_several_inputs_and_words_that_look_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`NAME=PATH` keeps its name; a value that equals a flag's or an input's is left alone elsewhere."""
    declared = {"inputs": {"models": {}, "frames": {}}, "outputs": {"report": {}}}
    monkeypatch.setattr("components.common.launch.handover.describe", lambda module: declared)
    artifacts = {name: {"artifacts": [{"uri": f"s3://b/{name}"}]} for name in ("models__a", "models__b")}
    told = json.dumps({"inputs": {"artifacts": artifacts}, "outputs": {"outputFile": "/tmp/out.json"}})
    command = ["python", "-m", "components.compare", "--models", "a=/s3/b/models__a", "--models", "b=/s3/b/models__b"]
    command += ["--frames", "s3://elsewhere/frames", "--param", "x=/s3/b/models__a", "--report", "/out/report"]
    words = Handover.of([*command, "--executor-input", told], tmp_path).command
    assert words[4] == "a=s3://b/models__a" and words[6] == "b=s3://b/models__b"
    assert words[8] == "s3://elsewhere/frames" and words[10] == "x=/s3/b/models__a"
    assert words[12] == str(tmp_path / "outputs" / "report" / "report")
