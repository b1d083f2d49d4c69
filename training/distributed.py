"""Several processes that train as one: started by torchrun, each takes its share of every batch.

Gradients are averaged by DistributedDataParallel, batch-norm statistics on CUDA by SyncBatchNorm. Metrics are summed as
integer counts, so that they are those of one process.
"""

import gc
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=10)  # after which a silent process counts as lost


def local_device(device: str) -> str:
    """Return the device of this process: cuda becomes the GPU that torchrun assigned to it."""
    rank = os.environ.get("LOCAL_RANK")
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{rank}" if rank is not None and use_cuda else device


def start(device: torch.device) -> None:
    """Join the other processes, if torchrun started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def stop() -> None:
    """Leave the other processes, all at the same time.

    Networks that were wrapped and are used no more keep the group's threads alive; where these end together with the
    interpreter, it aborts now and then, with exit code 134 after a finished training.
    """
    if dist.is_initialized():
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; 0 is the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def say(text: str) -> None:
    """Print at once, so that a log can be followed; only the first process prints."""
    if rank() == 0:
        print(text, flush=True)


def share(rows: torch.Tensor) -> torch.Tensor:
    """Return this process's rows of a batch; shares differ by one row at most, and may be empty."""
    return rows[rank() :: world()]


def add_up(x: torch.Tensor) -> torch.Tensor:
    """Sum x over the processes, in place."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def anyone(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process, so that all act on it at the same step."""
    return bool(add_up(torch.tensor(int(flag), device=device))) if world() > 1 else flag


def wait() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network ready for training by several processes; itself if there is only one.

    The parameters and buffers remain those of `model`. On the CPU, where PyTorch has no synchronised batch norm, each
    process normalises its own share.
    """
    if world() == 1:
        return model
    if device.type == "cuda":
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return DistributedDataParallel(model, device_ids=[device.index])
    return DistributedDataParallel(model)


def first_only(worker: Any) -> Any:
    """Return `worker` in the first process; in the others a stand-in whose methods do nothing."""
    return worker if rank() == 0 else _Idle()


class _Idle:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
