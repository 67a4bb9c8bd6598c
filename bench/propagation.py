"""Label propagation at 480p: seconds a frame and peak memory, against the released flow (videowalk, CropMAE).

OMP_NUM_THREADS=1 python -m bench.propagation

Both propagate the same labels over the same random features (30 x 55 cells, first frame and 20 earlier ones). The
literal flow compares each cell with all cells of all 21 frames, two target frames and 100 target cells at a time, adds
the mask, divides, takes the top k and their softmax, and weighs the labels. Ours runs the whole clip, the literal flow
its first frames, of which each costs the same. Processor time, which other work on the machine disturbs less; rounds
alternate. Memory is the peak of a process of its own that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.evaluate.propagation import Rule, propagate

HEIGHT, WIDTH, LABELS, SEED = 30, 55, 4, 0
TARGETS, CELLS = 2, 100  # what the released code works on at once
RULES = {
    "cropmae": Rule(20, 20, "disk", False, True, 7, False, 0.7),
    "crw": Rule(20, 12, "disk", False, True, 10, False, 0.05),
}


def clip(n_frames: int, dim: int) -> Iterator[Tensor]:
    """Random features, frame by frame."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(n_frames):
        yield torch.randn(HEIGHT, WIDTH, dim, generator=generator)


def first_labels() -> Tensor:
    """Soft labels of the first frame."""
    labels = torch.rand(HEIGHT, WIDTH, LABELS, generator=torch.Generator().manual_seed(SEED + 1))
    return labels / labels.sum(-1, keepdim=True)


def literal(features: Tensor, labels: Tensor, rule: Rule) -> Iterator[Tensor]:
    """The released flow: affinities of two frames with their 21 sources, then the labels; yields (h * w, C).

    Args:
        features: (T, h, w, D), of which frames 1.. are predicted.
        labels: (h, w, C) of the first.
    """
    n_cells = HEIGHT * WIDTH
    padded = torch.cat([features[:1]] * rule.context_frames + [features])
    padded = F.normalize(padded.permute(3, 0, 1, 2), dim=0)[None]  # (1, D, L, h, w)
    known = [labels.flatten(0, 1)] * (rule.context_frames + 1)
    barred = window_mask(rule)
    for start in range(1, len(features), TARGETS):
        targets = range(start, min(start + TARGETS, len(features)))
        sources = torch.tensor([[0, *range(t, t + rule.context_frames)] for t in targets])
        keys = padded[:, :, sources].flatten(-2)  # (1, D, 2, 21, h * w)
        queries = padded[:, :, torch.tensor(targets) + rule.context_frames].flatten(-2)
        found = [
            affinity(keys, queries[..., x : x + CELLS], barred[..., x : x + CELLS], rule)
            for x in range(0, n_cells, CELLS)
        ]
        weights, places = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
        for n in range(len(targets)):
            votes = torch.cat([known[s] for s in sources[n]]).T  # (C, 21 * h * w)
            known.append((votes[:, places[n]] * weights[n]).sum(1).T)
            yield known[-1]


def affinity(keys: Tensor, queries: Tensor, barred: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Weights and places (N, k, cells) of the top k."""
    similar = torch.einsum("ijklm,ijkn->iklmn", keys, queries)
    similar[0, :, 1:] += barred
    similar = similar.view(len(similar[0]), -1, queries.shape[-1])
    similar /= rule.temperature
    best, places = torch.topk(similar, rule.top_k, dim=-2)
    return F.softmax(best, dim=-2), places


def window_mask(rule: Rule) -> Tensor:
    """(1, h * w, h * w): 0 within the radius, -1e10 beyond it."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    y, x = y.flatten(), x.flatten()
    inside = (y[:, None] - y).square() + (x[:, None] - x).square() < rule.radius_cells**2
    return torch.where(inside, 0.0, -1e10)[None]


def frame_seconds(frames: Iterator[Tensor], keep: int) -> tuple[float, list[Tensor]]:
    """Processor seconds a frame, and the first `keep` results."""
    kept: list[Tensor] = []
    count, start = 0, time.process_time()
    for labels in frames:
        count += 1
        if len(kept) < keep:
            kept.append(labels)
    return (time.process_time() - start) / count, kept


def compare(name: str, args: argparse.Namespace) -> None:
    """Print seconds a frame of both, their ratio, and how far the results are apart."""
    rule, ratios, times = RULES[name], [], []
    some, whole = (torch.stack(list(clip(n, args.dim))) for n in (args.literal_frames, args.frames))
    for _ in range(args.rounds):
        slow, theirs = frame_seconds(literal(some, first_labels(), rule), args.literal_frames)
        fast, ours = frame_seconds(propagate(iter(whole), first_labels(), rule), args.literal_frames - 1)
        ratios.append(slow / fast)
        times.append((slow, fast))
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    apart = torch.stack([(a - b.view_as(a)).abs().amax(-1) for a, b in zip(ours, theirs, strict=True)])
    print(
        f"{name}: literal {slow:.3f} s, ours {fast:.3f} s a frame: median ratio {statistics.median(ratios):.1f}",
        end=" ",
    )
    print(f"({min(ratios):.1f} to {max(ratios):.1f}, {args.rounds} rounds)")
    print(f"    {(apart < 1e-5).float().mean():.4%} of the labels equal to 1e-5, largest difference {apart.max():.1e}")


def peak(name: str, args: argparse.Namespace) -> None:
    """Print the peak memory of a process that propagates the clip and nothing else."""
    command = [sys.executable, "-m", "bench.propagation", "--alone", name, "--frames", str(args.frames)]
    print(subprocess.run([*command, "--dim", str(args.dim)], check=True, capture_output=True, text=True).stdout, end="")


def alone(name: str, args: argparse.Namespace) -> None:
    """Propagate, then tell the peak of this process."""
    before = peak_gib()
    frames = sum(1 for _ in propagate(clip(args.frames, args.dim), first_labels(), RULES[name]))
    print(f"{name}: {frames + 1} frames, peak {peak_gib():.2f} GiB, of which {before:.2f} GiB is Python and torch")


def peak_gib() -> float:
    """Most memory this program has held; getrusage would count its parent's as well."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--literal-frames", type=int, default=7, help="frames of the clip that the literal flow runs")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocol", choices=RULES, nargs="+", default=["cropmae"])
    parser.add_argument("--alone", choices=RULES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(args.alone, args)
        return
    for name in args.protocol:
        compare(name, args)
        peak(name, args)


if __name__ == "__main__":
    main()
