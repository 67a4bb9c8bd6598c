"""The real methods in the real trainer, on a drawn corpus: what must hold whatever the method."""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from every import ARGS, CPU, ENCODER, assert_equal_methods, method_of, params, quiet, trainer_of, unfrozen

from components.common.errors import ExitCode, StageError
from components.pretrain.checkpoint import CheckpointStore
from components.pretrain.clock import Batch
from components.pretrain.config import find_method, known_methods
from components.pretrain.run import build_method
from components.pretrain.trainer import Trainer

Corpus = tuple[Path, Path]
METHODS = known_methods()
FIGURES = {"agreement"}  # shares that a method reports beside its terms


def test_every_method_is_tested_here() -> None:
    assert {method_of(entry) for entry in ARGS} == set(METHODS)


@pytest.mark.parametrize("entry", ARGS)
def test_accumulation_equals_the_large_batch(entry: str, corpus: Corpus) -> None:
    whole, parts = (trainer_of(params(entry, quiet(entry), accumulate=n), corpus, double=True) for n in (1, 2))
    whole.train()
    parts.train()
    assert_equal_methods(whole.method.state_dict(), parts.method.state_dict(), rtol=1e-6)


@pytest.mark.parametrize("entry", ARGS)
def test_a_run_resumed_at_any_step_repeats_to_the_bit(entry: str, corpus: Corpus) -> None:
    stop = 1 + zlib.crc32(entry.encode()) % 3  # another step for each
    whole = trainer_of(params(entry, log_every_steps=1), corpus)
    states: list[dict[str, Any]] = []
    whole.train(lambda report: states.append(clone(whole.state())))
    resumed = trainer_of(params(entry, log_every_steps=1), corpus)
    torch.rand(100)  # whatever happened to the global generator meanwhile
    resumed.resume(states[stop - 1])
    assert resumed.step == stop
    resumed.train()
    assert resumed.curves == whole.curves
    for name, value in whole.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], value), name


def clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: clone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clone(inner) for inner in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("entry", ARGS)
def test_training_moves_what_learns_and_its_teacher_and_reports_both(entry: str, corpus: Corpus) -> None:
    # a quick teacher: TimeT's slow one, at a tenth of a rate, moves a weight of 1.0 by less than float32 can tell
    trainer = trainer_of(params(entry, unfrozen(entry), momentum_teacher=0.5), corpus)
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.train()
    after = trainer.method.state_dict()
    learns = [name for name, p in trainer.method.student.named_parameters() if p.requires_grad]
    still = {name for name in learns if torch.equal(before[f"student.{name}"], after[f"student.{name}"])}
    assert not still
    for name, p in trainer.method.teacher.named_parameters():
        assert torch.equal(before[f"teacher.{name}"], after[f"teacher.{name}"]) == (name not in learns), name
        assert not p.requires_grad
    monitors = {"loss", "grad_norm", "teacher_entropy", "teacher_spread", "feature_std", "rankme"}
    assert monitors <= set(trainer.curves[-1])
    assert all(math.isfinite(value) for value in trainer.curves[-1].values())


def test_all_methods_start_from_the_same_encoder() -> None:
    encoders = [build_method(params(method), 10).encoder.state_dict() for method in METHODS]
    for name, value in encoders[0].items():
        assert all(torch.equal(other[name], value) for other in encoders[1:]), name


@pytest.mark.parametrize("method", METHODS)
def test_the_exported_encoder_is_a_plain_timm_vit(method: str, corpus: Corpus) -> None:
    more = {"reg_tokens": 2, "init_values": 1e-5} if method == "tcore" else {}
    run = params(method, encoder=more)
    trainer = trainer_of(run, corpus)
    trainer.train()
    plain = timm.create_model(ENCODER["architecture"], num_classes=0, **run.encoder.model_args)
    plain.load_state_dict(trainer.method.encoder.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    ours: Any = trainer.method.encoder.eval()
    torch.testing.assert_close(plain.eval().forward_features(images), ours.forward_features(images))


WARM_UPS = [
    (method, name)
    for method in METHODS
    for name in find_method(method).Args.model_fields
    if name.startswith("warmup_") and name.endswith("_epochs")
]


@pytest.mark.parametrize(("method", "name"), WARM_UPS)
def test_a_warm_up_longer_than_the_run_is_refused_by_name(method: str, name: str) -> None:
    run = params(method, {name: 30})
    with pytest.raises(StageError, match=f"{name}' = 30 is longer than the run of 3 epochs") as error:
        build_method(run, 3)
    assert "shorten the warm-up" in str(error.value)
    build_method(run, 0)  # an untrained encoder has no warm-up


@pytest.mark.parametrize("entry", ARGS)
def test_a_view_that_is_no_number_stops_the_run_and_names_its_terms(entry: str, corpus: Corpus, tmp_path: Path) -> None:
    """Planted at step 3 into each group of views in turn; each term reads one group at least."""
    terms: set[str] = set()
    named: set[str] = set()
    for group in trainer_of(params(entry), corpus).feed.dataset.plan.names:  # type: ignore[attr-defined]
        store = CheckpointStore(tmp_path / group, {})
        trainer = trainer_of(params(entry, checkpoint_every_s=0), corpus, store=store)
        poison(trainer, group, at=3)
        with pytest.raises(StageError) as error:
            trainer.train()
        text = str(error.value)
        assert "at step 3" in text and error.value.code == ExitCode.STOPPED
        assert f"the last good checkpoint is that of step 2, {store.last}" in text
        state = store.load(CPU)
        assert state is not None and all(torch.isfinite(v).all() for v in state["method"].values())
        terms = set(trainer.curves[-1]) - set(COLUMNS) - FIGURES
        stopped = {term for term in terms if f"{term} is nan" in text}
        assert stopped, f"{group}: {text}"
        named |= stopped
    assert named == terms


COLUMNS = (
    "step", "epoch", "images_seen", "pflops_seen", "lr", "weight_decay", "momentum", "loss", "grad_norm",
    "teacher_entropy", "teacher_spread", "feature_std", "rankme",
)  # fmt: skip


def poison(trainer: Trainer, group: str, at: int) -> None:
    """Make one pixel of a group of views in one step's batch, which every crop of the first sample has, no number."""
    batches = trainer.feed.batches

    def poisoned(first_step: int, end: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first_step, end), first_step):
            if step == at:
                batch[group] = batch[group].clone()
                batch[group][..., 0, 0] = math.nan
            yield batch

    trainer.feed.batches = poisoned  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("method", METHODS)
def test_compiled_blocks_give_the_eager_result(method: str, corpus: Corpus) -> None:
    # compiled code draws its random numbers in another order
    eager, compiled = (trainer_of(params(method, quiet(method), compile=on), corpus) for on in (False, True))
    eager.train()
    compiled.train()
    assert eager.method.state_dict().keys() == compiled.method.state_dict().keys()
    for name, value in eager.method.encoder.state_dict().items():
        torch.testing.assert_close(compiled.method.encoder.state_dict()[name], value, rtol=1e-3, atol=1e-4)
