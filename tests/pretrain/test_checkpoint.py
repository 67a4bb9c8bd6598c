"""Checkpoints: whole or not there, the previous one behind, none of another run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.common.errors import StageError
from components.pretrain.checkpoint import CheckpointStore, differences, is_whole, read

CPU = torch.device("cpu")
IDENTITY = {"method": "dino", "trainer": {"lr": 0.1, "betas": [0.9, 0.999]}, "index": "abc"}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run", IDENTITY)


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((1000,), float(step)), "curves": [{"loss": 0.1}]}


def step_of(store: CheckpointStore) -> int:
    loaded = store.load(CPU)
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.full((1000,), float(loaded["step"])))
    return int(loaded["step"])


def test_nothing_there_is_no_error(store: CheckpointStore) -> None:
    assert store.load(CPU) is None


def test_the_newest_is_read_and_one_before_it_kept(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        store.save(state(step))
    assert step_of(store) == 3
    assert sorted(p.name for p in store.folder.iterdir()) == ["last.pt", "previous.pt"]
    (store.folder / "last.pt").unlink()
    assert step_of(store) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(store: CheckpointStore, share: float) -> None:
    store.save(state(1))
    last = store.save(state(2))
    data = last.read_bytes()
    last.write_bytes(data[: int(len(data) * share)])
    assert step_of(store) == 1
    store.save(state(3))
    assert step_of(store) == 3
    (store.folder / "last.pt").unlink()
    assert step_of(store) == 1, "the damaged one has not taken the good one's place"


def test_a_flipped_bit_is_noticed(store: CheckpointStore) -> None:
    store.save(state(1))
    last = store.save(state(2))
    data = bytearray(last.read_bytes())
    data[data.index(torch.full((1000,), 2.0).numpy().tobytes()) + 1234] ^= 1
    last.write_bytes(bytes(data))
    assert not is_whole(last)
    assert step_of(store) == 1


def test_when_none_is_readable_it_says_what_to_do(store: CheckpointStore) -> None:
    store.save(state(1)).write_bytes(b"no checkpoint")
    with pytest.raises(StageError, match=r"no checkpoint of this run is readable: .*last.pt \(delete it"):
        store.load(CPU)


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_save_that_dies_leaves_the_one_before(
    store: CheckpointStore, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(state(1))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    if moment == "write":
        monkeypatch.setattr(torch, "save", dies)
    else:
        monkeypatch.setattr("components.common.outputs.flush", dies)
    with pytest.raises(KeyboardInterrupt):
        store.save(state(2))
    assert step_of(store) == 1


def test_a_full_disk_is_an_error_of_the_machine(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(state(1))
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: opened(Path("/dev/full"), *args, **kwargs))
    with pytest.raises(OSError, match="No space left"):
        store.save(state(2))
    monkeypatch.undo()
    assert step_of(store) == 1
    assert [p.name for p in store.folder.iterdir()] == ["last.pt"]


def test_another_runs_checkpoint_is_refused_by_what_differs(store: CheckpointStore) -> None:
    file = store.save(state(1))
    other = {**IDENTITY, "method": "dora", "trainer": {"lr": 0.2, "betas": [0.9, 0.999]}}
    with pytest.raises(StageError) as error:
        read(file, other, CPU)
    text = str(error.value)
    assert "method is 'dino' there and 'dora' here" in text and "trainer.lr is 0.1 there and 0.2 here" in text
    assert "betas" not in text and "\n" not in text


def test_long_differences_are_counted() -> None:
    assert differences({"a": 1, "b": 1, "c": 1, "d": 1}, {}).endswith("1 more")
    assert differences(IDENTITY, IDENTITY) == ""


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_strangers_files_are_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.pt"
    torch.save({"format": 1, "payload": Payload()}, file)
    with pytest.raises(StageError, match="not a checkpoint"):
        read(file, {}, CPU)
    assert "executed" not in capsys.readouterr().out
    torch.save([1, 2], file)
    with pytest.raises(StageError, match="not a checkpoint of this trainer"):
        read(file, {}, CPU)
    with pytest.raises(StageError, match="no such checkpoint"):
        read(tmp_path / "absent.pt", {}, CPU)
