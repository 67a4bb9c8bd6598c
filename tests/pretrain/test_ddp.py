"""Two processes train as one does at the same global batch: the toy, and every method."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from every import ARGS, assert_equal_methods, params, quiet, trainer_of
from toy import toy_params, toy_trainer

HERE = Path(__file__).parent
TOY = """
from toy import toy_params, toy_trainer
with parallel.group():
    trainer = toy_trainer(toy_params(args={"noise": False}, max_steps=10, accumulate=2))
    trainer.train()
    assert parallel.share({"a": [1, "b"]} if parallel.rank() == 0 else None, torch.device("cpu")) == {"a": [1, "b"]}
    mine = torch.tensor([float(parallel.rank())])
    assert parallel.gather(mine).tolist() == [0.0, 1.0] and parallel.mean(mine).tolist() == [0.5]
    save("toy", trainer)
"""
EVERY = """
from every import ARGS, params, quiet, trainer_of
with parallel.group():
    for entry in ARGS:
        run = params(entry, quiet(entry), max_steps=10, accumulate=2)
        trainer = trainer_of(run, (folder / "frames", folder / "index"), double=True)
        trainer.train()
        save(entry, trainer)
"""
HEAD = f"""
import sys, warnings
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
import torch
from components.pretrain import parallel
warnings.simplefilter("error", FutureWarning)
folder = Path(sys.argv[1])
def save(name, trainer):
    state = {{"method": trainer.method.state_dict(), "curves": trainer.curves}}
    torch.save(state, folder / f"{{name}}-{{parallel.rank()}}.pt")
"""


@contextmanager
def two_processes(script: str, folder: Path) -> Iterator[None]:
    """Run a script twice beside the block, as ranks 0 and 1; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    env = {**os.environ, **meet, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HEAD + script, str(folder)]
    processes = [subprocess.Popen(command, env={**env, "RANK": str(rank)}) for rank in range(2)]
    try:
        yield
        assert [process.wait(600) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def assert_as_one(folder: Path, name: str, one: Any) -> None:
    """Both processes hold the same method, bit by bit, and it is that of the single process within 1e-5."""
    two = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(value, two[1]["method"][key]) for key, value in two[0]["method"].items())
    assert_equal_methods(one.method.state_dict(), two[0]["method"], rtol=1e-5, atol=1e-6)
    assert two[0]["curves"] == two[1]["curves"]
    for row, expected in zip(two[0]["curves"], one.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    with two_processes(TOY, tmp_path):
        one = toy_trainer(toy_params(args={"noise": False}, max_steps=10))
        one.train()
    assert_as_one(tmp_path, "toy", one)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Ten steps of every method: by one process at once, and by one pair of processes that runs them in turn."""
    from corpus import write_corpus

    folder = tmp_path_factory.mktemp("two")
    corpus = write_corpus(folder)
    ones = {}
    with two_processes(EVERY, folder):
        for entry in ARGS:
            ones[entry] = trainer_of(params(entry, quiet(entry), max_steps=10), corpus, double=True)
            ones[entry].train()
    yield folder, ones


@pytest.mark.slow
@pytest.mark.parametrize("entry", ARGS)
def test_two_processes_of_two_micro_batches_equal_one_batch(entry: str, pairs: tuple[Path, dict[str, Any]]) -> None:
    folder, ones = pairs
    assert_as_one(folder, entry, ones[entry])
