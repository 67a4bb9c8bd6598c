"""Peak memory of DINO's head and loss, forward and backward, against the same through whole logits.

OMP_NUM_THREADS=1 python -m bench.head_memory                # 65,536 prototypes, 2 + 8 views of 64 samples

Each side runs in a process of its own; what it held before the pass is taken off.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from components.pretrain.blocks import prototype_loss as fused
from components.pretrain.blocks import self_distillation as dense
from components.pretrain.blocks.head import ProjectionHead

LARGE, SMALL, DIM = 2, 8, 384  # views, and ViT-S's width
STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--side", choices=("dense", "fused"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(*one_pass(args.side, args.prototypes, args.samples))
        return
    said = {}
    for side in ("dense", "fused"):
        command = [sys.executable, "-m", "bench.head_memory", *sys.argv[1:], "--side", side]
        said[side] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    (before, whole), (after, chunked) = ((float(mib), float(loss)) for mib, loss in said.values())
    print(
        f"whole logits {before:.0f} MiB, ours {after:.0f} MiB: {after / before:.0%}; losses {whole:.6f}, {chunked:.6f}"
    )


def one_pass(side: str, prototypes: int, samples: int) -> tuple[float, float]:
    """Peak MiB of a forward and a backward pass, and the loss."""
    torch.manual_seed(0)
    head = ProjectionHead(DIM, prototypes, hidden_dim=2048, bottleneck_dim=256, train_gain=True)
    told, own = torch.randn(LARGE, samples, DIM), torch.randn(LARGE + SMALL, samples, DIM)
    centre, held = torch.zeros(prototypes), peak_mib()
    if side == "dense":
        with torch.no_grad():
            probs = dense.teacher_probabilities(head(told), centre, TEACHER_TEMP)
        loss = dense.view_pair_loss(probs, head(own), STUDENT_TEMP)
    else:
        with torch.no_grad():
            targets = fused.Targets(fused.Scores.of(head, told), centre, TEACHER_TEMP)
        loss = fused.view_pair_loss(targets, fused.Scores.of(head, own), STUDENT_TEMP)
    loss.backward()
    return peak_mib() - held, loss.item()


def peak_mib() -> float:
    """The program's own peak; getrusage's would begin with that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
