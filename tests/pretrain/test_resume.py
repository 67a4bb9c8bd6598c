"""A run that was killed and resumed ends in the same bytes as one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy import toy_params, toy_trainer

from components.pretrain.checkpoint import CheckpointStore
from components.pretrain.export import write_curves
from components.pretrain.trainer import Report, Trainer

CPU = torch.device("cpu")
HERE = Path(__file__).parent


def result(trainer: Trainer, folder: Path) -> tuple[bytes, bytes]:
    """Everything a run leaves, as bytes."""
    write_curves(folder / "curves.csv", trainer.curves)
    parts = [value.numpy().tobytes() for _, value in sorted(trainer.method.state_dict().items())]
    moments = [s[k].numpy().tobytes() for s in trainer.optimiser.state.values() for k in ("exp_avg", "exp_avg_sq")]
    return b"".join(parts + moments), (folder / "curves.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    trainer = toy_trainer(toy_params())
    trainer.train()
    return result(trainer, tmp_path_factory.mktemp("undisturbed"))


def test_the_toy_draws_random_numbers(undisturbed: tuple[bytes, bytes], tmp_path: Path) -> None:
    quiet = toy_trainer(toy_params(args={"noise": False}))
    quiet.train()
    assert result(quiet, tmp_path) != undisturbed, "or the tests below would not see a lost generator"


@pytest.mark.parametrize("stop_at", [4, 8, 12])
def test_going_on_from_any_checkpoint_gives_the_same_bytes(
    stop_at: int, undisturbed: tuple[bytes, bytes], tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, {})

    def stop(report: Report) -> None:
        if store.load(CPU) is not None and report.step > stop_at:
            raise KeyboardInterrupt

    first = toy_trainer(toy_params(), store)
    if stop_at < 12:
        with pytest.raises(KeyboardInterrupt):
            first.train(stop)
    else:
        first.train()
    state = store.load(CPU)
    assert state is not None and state["step"] == stop_at
    torch.rand(100)  # whatever happened to the global generator meanwhile
    second = toy_trainer(toy_params(), store)
    second.resume(state)
    second.train()
    assert result(second, tmp_path) == undisturbed


def test_the_batch_of_the_pictures_is_the_same_after_a_resume(tmp_path: Path) -> None:
    store, seen = CheckpointStore(tmp_path, {}), []
    for _ in range(2):
        trainer = toy_trainer(toy_params(), store)
        trainer.resume(store.load(CPU))
        trainer.method.pictures = lambda batch, now: seen.append(batch["global"]) or {}  # type: ignore[method-assign, func-returns-value]
        trainer.train()
        trainer.pictures()
    assert torch.equal(*seen)


SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from toy import toy_params, toy_trainer
from components.pretrain.checkpoint import CheckpointStore
from pathlib import Path
import torch
store = CheckpointStore(Path(sys.argv[1]), {{}})
trainer = toy_trainer(toy_params(log_every_steps=1), store)
trainer.resume(store.load(torch.device("cpu")))
trainer.train(lambda report: (print(report.step, flush=True), time.sleep(0.02)))
"""


def test_a_process_killed_at_any_instant_is_resumed(tmp_path: Path) -> None:
    whole = toy_trainer(toy_params(log_every_steps=1))
    whole.train()
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "run")], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline(), "it ended by itself"
    time.sleep(0.013)  # inside a step, a report or a save
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    state = CheckpointStore(tmp_path / "run", {}).load(CPU)
    assert state is not None and 2 <= state["step"] < 12
    resumed = toy_trainer(toy_params(log_every_steps=1), CheckpointStore(tmp_path / "run", {}))
    resumed.resume(state)
    resumed.train()
    assert result(resumed, tmp_path) == result(whole, tmp_path)
