"""KoLeo: features of a batch are spread out by pushing each from its nearest neighbour (arXiv:1806.03198, eq. 4).

The published runs look for the neighbour among the samples that one GPU holds, so the term changes with the number of
GPUs. Here it is sought in groups of a fixed number of samples, whoever holds them: one process with a large batch, or
several processes or micro-batches that hold whole groups each, give the same number. A group as large as the published
batch of one GPU is the published term.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.common.errors import StageError
from components.pretrain.blocks.numerics import full, no_autocast

EPS = 1e-8  # as released: in the difference and in the logarithm, so that two equal rows cost a finite amount


def koleo(features: Tensor, group: int) -> Tensor:
    """-mean_b log |z_b - z_nn(b)| of each view; z are unit rows, nn(b) is the nearest of b's group and view.

    Gradients reach both ends of a pair. The mean of two equally large micro-batches is that of both together.

    Args:
        features: (V, B, D), samples in the batch's order.
        group: samples among which a neighbour is sought; divides B.

    Returns:
        (V,).

    Raises:
        StageError: B is no multiple of `group`, so that neighbours would depend on how the batch was shared out.
    """
    n_samples = features.shape[1]
    if n_samples % group:
        what = f"koleo_group = {group} does not divide the {n_samples} samples of a forward pass"
        do = "let it divide trainer.batch_size / (processes * accumulate)"
        raise StageError(what, where="pretrain.args", do=do)
    with no_autocast(features):
        grouped = F.normalize(full(features), dim=-1).unflatten(1, (-1, group))  # (V, B / group, group, D)
        pairs = grouped - torch.take_along_dim(grouped, nearest(grouped)[..., None], dim=-2)
        distance = torch.linalg.vector_norm(pairs + EPS, dim=-1)
        return -(distance + EPS).log().mean(dim=(1, 2))


@torch.no_grad()
def nearest(rows: Tensor) -> Tensor:
    """Index (..., n) of the other row with the largest dot product, among unit rows (..., n, D)."""
    similarity = rows @ rows.transpose(-2, -1)
    own = torch.eye(rows.shape[-2], dtype=torch.bool, device=rows.device)
    return similarity.masked_fill(own, -2.0).argmax(dim=-1)
