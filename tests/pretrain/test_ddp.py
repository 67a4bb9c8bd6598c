"""Two processes train as one does at the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import toy_params, toy_trainer

HERE = Path(__file__).parent
SCRIPT = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from toy import toy_params, toy_trainer
from components.pretrain import parallel
import torch
with parallel.group():
    trainer = toy_trainer(toy_params(args={{"noise": False}}, max_steps=10, accumulate=2))
    trainer.train()
    assert parallel.share({{"a": [1, "b"]}} if parallel.rank() == 0 else None, torch.device("cpu")) == {{"a": [1, "b"]}}
    mine = torch.tensor([float(parallel.rank())])
    assert parallel.gather(mine).tolist() == [0.0, 1.0] and parallel.mean(mine).tolist() == [0.5]
    state = {{"method": trainer.method.state_dict(), "curves": trainer.curves}}
    torch.save(state, f"{{sys.argv[1]}}/{{parallel.rank()}}.pt")
"""


def start(rank: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    env = {**os.environ, **meet, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=env)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(rank, port, tmp_path) for rank in range(2)]
    one = toy_trainer(toy_params(args={"noise": False}, max_steps=10))
    one.train()
    assert [process.wait(120) for process in processes] == [0, 0]
    two = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in one.method.state_dict().items():
        torch.testing.assert_close(two[0]["method"][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(two[0]["method"][name], two[1]["method"][name]), name
    assert two[0]["curves"] == two[1]["curves"]
    for row, expected in zip(two[0]["curves"], one.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
