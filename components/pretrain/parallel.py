"""Several processes, one run: those that torchrun started, or those that the first one starts for its GPUs."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.common.errors import ExitCode, StageError

FOLLOWER = "LONGTAKE_FOLLOWER"  # set for processes that the first one starts


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def pick_device() -> torch.device:
    """This process's own GPU, else the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


@contextmanager
def group(processes: int = 1) -> Iterator[None]:
    """Join the other processes of this run for the length of the block.

    Args:
        processes: how many there should be when torchrun has not said so (WORLD_SIZE); 0 takes one for each GPU.
    """
    wanted = processes or max(torch.cuda.device_count(), 1)
    end_with_launcher()
    with ExitStack() as stack:
        if "WORLD_SIZE" not in os.environ and wanted > 1:
            stack.enter_context(_followers(wanted))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            stack.enter_context(_lost_told())
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            stack.callback(dist.destroy_process_group)
        yield


@contextmanager
def _lost_told() -> Iterator[None]:
    """What a collective operation raises when another process is gone, as a line instead of a traceback."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        why = re.sub(r"\[\S*:\d+\] *", "", " ".join(str(error).split()))[:160]  # without places in torch's sources
        what = f"another process of this run was lost, {why}"
        raise StageError(what, do="run it again, it goes on from the last checkpoint", code=ExitCode.LOST) from None


@contextmanager
def _followers(processes: int) -> Iterator[None]:
    """Start the other processes on this machine; they end with the block, and with this process however it ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), FOLLOWER: "1"}
    command = [sys.executable, "-m", "components.pretrain"]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | meet | {"RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(1, processes)
    ]
    before = dict(os.environ)
    os.environ.update(meet | {"RANK": "0", "LOCAL_RANK": "0"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for child in children:
            child.terminate()
            child.wait()


def end_with_leader() -> None:
    """In a follower: stop when the process that started this one is gone, which closes our standard input."""
    if FOLLOWER in os.environ:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()


def end_with_launcher() -> None:
    """Under torchrun: stop when its agent is gone, however that ended; it would leave its processes to themselves."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:  # an orphan is given to another process, even before its parent is buried
            time.sleep(1)
        os._exit(1)

    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def tell_launcher(error: StageError) -> None:
    """Under torchrun, in a process that is not the first: leave the message where the agent finds it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": str(error), "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps(told), encoding="utf-8")


def end_with_trainer(worker: int) -> None:
    """In a loader worker: stop when the process that reads its batches is gone, however that ended.

    Workers watch the process that forked them, which is the fork server, and the server lives as long as a worker
    does: after a kill both would stay for ever, with half a gigabyte each.
    """
    trainer = multiprocessing.parent_process()

    def watch() -> None:
        if trainer is not None:
            trainer.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def mean(tensor: Tensor) -> Tensor:
    """Mean over processes."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes, which all have equally many."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Reach(torch.autograd.Function):
    """A loss as it is, with parameters as further inputs to which no gradient flows."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = len(parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *grads, *(None,) * ctx.parameters


def reach(loss: Tensor, model: torch.nn.Module) -> Tensor:
    """The loss with every trained parameter of `model` in its graph, also those that this batch leaves unused.

    DistributedDataParallel waits for each parameter's turn in the backward pass, and one that never comes ends the
    run. To be reached without a gradient is enough, and free; its search for unused ones walks the graph each step.
    """
    reached: Tensor = _Reach.apply(loss, *(p for p in model.parameters() if p.requires_grad))  # type: ignore[no-untyped-call]
    return reached


def share(value: dict[str, Any] | None, device: torch.device) -> dict[str, Any]:
    """The first process's JSON-able mapping, in every process (sent as JSON: nothing is unpickled)."""
    if world_size() == 1:
        return value or {}
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, 0)
    if rank() > 0:
        data = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    return dict(json.loads(bytes(data.cpu().tolist())))
