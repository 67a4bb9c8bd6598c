"""Fine-tuning of a detector by iterations: layer-wise learning rates, a stepped schedule, and checkpoints.

Every draw of an iteration (pictures, augmentation, sampled regions, stochastic depth) follows from the seed and the
iteration's number alone, so that a run that was stopped goes on to the same weights.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.common.encoder import Encoder
from components.common.errors import ExitCode, StageError
from components.common.outputs import atomic_file
from components.common.vit import resize_positions
from components.evaluate.cascade import Target
from components.evaluate.detection_data import Augmentation, Example, augment, load
from components.evaluate.detector import Detector
from components.evaluate.features import normalised
from components.evaluate.images import ahead
from components.evaluate.layouts.coco import CocoPicture, Note
from components.evaluate.task import Job, Row


@dataclass(frozen=True)
class Schedule:
    """See the task's parameters of the same names."""

    epochs: int
    drop_epochs: Sequence[int]
    drop_factor: float
    warmup_iterations: int
    warmup_ratio: float
    batch_size: int
    images_per_pass: int | None
    lr: float
    weight_decay: float
    layer_decay: float
    decay_positions: bool
    clip_norm: float | None
    log_every: int
    checkpoint_every_s: float


@dataclass(frozen=True)
class TrainingSet:
    """Pictures with their usable annotations, and labels (from 1) of category ids."""

    pictures: Sequence[tuple[CocoPicture, list[Note]]]
    labels: Mapping[int, int]


def fine_tuned_copy(encoder: Encoder, drop_path: float, position_px: tuple[int, int] | None) -> Any:
    """The encoder's ViT to be trained: its own weights, stochastic depth from 0 up to `drop_path`, positions resized.

    Args:
        encoder: stays as it is.
        drop_path: rate of the last block.
        position_px: the position table is resized once to the grid of a picture of this height and width, and learnt
            there; null: it stays as it is. Each picture's grid is resized from it.

    Raises:
        StageError: no VisionTransformer.
    """
    from timm.layers import DropPath

    model = copy.deepcopy(encoder.model)
    if not hasattr(model, "blocks") or not hasattr(model, "forward_intermediates"):
        what = f"a detector needs a ViT, this is {type(model).__name__}"
        raise StageError(what, where=encoder.origin, do="name a timm VisionTransformer")
    n = len(model.blocks)
    for number, block in enumerate(model.blocks):
        rate = drop_path * number / max(1, n - 1)
        block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    if position_px is not None and getattr(model, "pos_embed", None) is not None:
        grid = (position_px[0] // encoder.patch_size, position_px[1] // encoder.patch_size)
        n_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        table = resize_positions(model.pos_embed.detach(), grid, n_prefix=n_prefix)
        model.patch_embed.set_input_size(img_size=(grid[0] * encoder.patch_size, grid[1] * encoder.patch_size))
        model.pos_embed = nn.Parameter(table)
    return model.requires_grad_(True)


def parameter_groups(detector: Detector, how: Schedule) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay.

    The rate of block i of n (from 1) is lr * decay^(n + 1 - i); patch embedding, tokens and positions count as block
    0, all that is no block as n + 1. Biases and one-dimensional weights do not decay.
    """
    depth = len(detector.backbone.vit.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        token = re.match(r"backbone\.vit\.(cls_token|reg_token|pos_embed)$", name) is not None
        flat = parameter.ndim <= 1 or name.endswith(".bias") or (token and not how.decay_positions)
        groups.setdefault((layer_of(name, depth), not flat), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": how.layer_decay ** (depth + 1 - layer),
            "weight_decay": how.weight_decay if decays else 0.0,
        }
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layer_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks of the backbone's ViT, 1 to `depth` for them, depth + 1 for the rest."""
    if re.match(r"backbone\.vit\.(cls_token|reg_token|pos_embed|patch_embed\.)", name):
        return 0
    block = re.match(r"backbone\.vit\.blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def rate_at(iteration: int, per_epoch: int, how: Schedule) -> float:
    """Learning rate: a linear warm-up, then the drops at the start of epochs (counted from 0)."""
    rate = how.lr * how.drop_factor ** sum(iteration >= epoch * per_epoch for epoch in how.drop_epochs)
    if iteration < how.warmup_iterations:
        rate *= 1 - (1 - iteration / how.warmup_iterations) * (1 - how.warmup_ratio)
    return rate


def number_of(iteration: int, slot: int, n: int, batch: int, seed: int) -> int:
    """The picture in a slot of an iteration: a permutation per epoch, its last batch filled up from its beginning."""
    epoch, place = divmod(iteration, math.ceil(n / batch))
    return int(_order(n, seed, epoch)[(place * batch + slot) % n])


@lru_cache(maxsize=2)  # of COCO's 117,266 pictures, for each of which it is asked
def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(n)


def example_at(data: TrainingSet, place: int, how: Schedule, look: Augmentation, seed: int) -> Example:
    """The augmented picture at `place`, counted over all slots of all iterations."""
    iteration, slot = divmod(place, how.batch_size)
    picture, notes = data.pictures[number_of(iteration, slot, len(data.pictures), how.batch_size, seed)]
    rng = np.random.default_rng((seed, 1, iteration, slot))
    return augment(load(picture, notes, data.labels), look, rng)


def padded(images: Sequence[Any], multiple: int, encoder: Encoder, device: str) -> Tensor:
    """Pictures (H, W, 3) uint8, normalised, as one batch padded right and below with the mean colour."""
    sides = [max(image.shape[axis] for image in images) for axis in (0, 1)]
    height, width = (-(-side // multiple) * multiple for side in sides)
    batch = torch.zeros(len(images), 3, height, width, device=device)
    for place, image in zip(batch, images, strict=True):
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
        place[:, : image.shape[0], : image.shape[1]] = normalised(pixels, encoder.mean, encoder.std)[0]
    return batch


def train(
    detector: Detector,
    data: TrainingSet,
    encoder: Encoder,
    how: Schedule,
    look: Augmentation,
    seed: int,
    workers: int,
    job: Job,
) -> list[Row]:
    """Train in place, from a checkpoint in the job's cache if there is one; returns the curve of the losses.

    Raises:
        StageError: the loss is no number any more.
    """
    per_epoch = math.ceil(len(data.pictures) / how.batch_size)
    last, file = per_epoch * how.epochs, job.cache / "training.pt"
    optimiser = torch.optim.AdamW(parameter_groups(detector, how), lr=how.lr)
    start, rows = _restore(file, detector, optimiser)
    places = range(start * how.batch_size, last * how.batch_size)
    ready = ahead(lambda place: example_at(data, place, how, look, seed), places, workers)
    saved = time.monotonic()
    detector.train()
    with job.progress(last - start, "it") as progress:
        for iteration in range(start, last):
            examples = [next(ready) for _ in range(how.batch_size)]
            rate = rate_at(iteration, per_epoch, how)
            losses = step(detector, optimiser, examples, encoder, rate, (seed, iteration), how, job.device)
            progress.update(1)
            if iteration % how.log_every == 0 or iteration + 1 == last:
                rows.append(_checked({"iteration": iteration, "lr": rate, **{k: float(v) for k, v in losses.items()}}))
            if time.monotonic() - saved > how.checkpoint_every_s or iteration + 1 == last:
                _save(file, detector, optimiser, iteration + 1, rows)
                saved = time.monotonic()
    return rows


def step(
    detector: Detector,
    optimiser: torch.optim.Optimizer,
    examples: Sequence[Example],
    encoder: Encoder,
    rate: float,
    draw: tuple[int, int],
    how: Schedule,
    device: str,
) -> dict[str, Tensor]:
    """One iteration; returns the loss terms and their sum, averaged over the pictures."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
    optimiser.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    size = how.images_per_pass or len(examples)
    devices = [torch.device(device)] if device != "cpu" else []
    with torch.random.fork_rng(devices=devices):  # torchvision's samplers and timm's drop path draw from it
        torch.manual_seed(int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0] >> 1))
        for part in _parts(examples, size):
            share = len(part) / len(examples)
            images = padded([e.image for e in part], detector.backbone.multiple, encoder, device)
            sizes = [(e.image.shape[0], e.image.shape[1]) for e in part]
            losses = detector.losses(images, sizes, [to_target(e, device) for e in part])
            loss = torch.stack(list(losses.values())).sum()
            (share * loss).backward()
            for name, value in {**losses, "loss": loss}.items():
                total[name] = total.get(name, 0) + share * value.detach()
    if how.clip_norm is not None:
        nn.utils.clip_grad_norm_(detector.parameters(), how.clip_norm)
    optimiser.step()
    return total


def to_target(example: Example, device: str) -> Target:
    """Boxes, labels and masks on the device."""
    parts = (example.boxes, example.labels, example.masks)
    return Target(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in parts))


def _parts(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def _checked(row: Row) -> Row:
    if not math.isfinite(row["loss"]):
        terms = ", ".join(name for name, value in row.items() if not math.isfinite(value))
        what = f"the loss is no number at iteration {row['iteration']} ({terms})"
        raise StageError(what, do="lower the learning rate", code=ExitCode.STOPPED)
    return row


def _save(file: Path, detector: Detector, optimiser: torch.optim.Optimizer, iteration: int, rows: list[Row]) -> None:
    state = {"model": detector.state_dict(), "optimiser": optimiser.state_dict(), "iteration": iteration, "rows": rows}
    with atomic_file(file) as partial:
        torch.save(state, partial)


def _restore(file: Path, detector: Detector, optimiser: torch.optim.Optimizer) -> tuple[int, list[Row]]:
    if not file.exists():
        return 0, []
    state = torch.load(file, map_location="cpu", weights_only=True)
    detector.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["iteration"], state["rows"]
