"""Several processes as one: started by torchrun, they train on shares of each batch and agree on all sums.

What a single process computes over a batch (the loss, the statistics of batch norm) is computed here over the shares of
all processes, so that the global batch, its order and the figures stay those of one process.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=10)  # after which a silent process counts as lost


def start(backend: str) -> None:
    """Join the other processes, where torchrun started this one."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group(backend, timeout=TIMEOUT)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(rows: torch.Tensor) -> torch.Tensor:
    """This process's part of the rows of a batch; parts differ by one row at most, and may be empty."""
    return rows[rank() :: world()]


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum of x over the processes; gradients flow back to all of them."""
    return all_reduce(x) if world() > 1 else x


def add_up(x: torch.Tensor) -> torch.Tensor:
    """The sum of x over the processes, in place, outside of autograd."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process, so that all act on it at the same step."""
    return bool(add_up(torch.tensor(int(flag), device=device))) if world() > 1 else flag


def wait() -> None:
    """Until every process has come here."""
    if world() > 1:
        dist.barrier()


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """The network ready for training by several processes: gradients averaged, batch norm over the global batch.

    The parameters and buffers stay those of `model`, under the same names there.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, GlobalBatchNorm.of(child))
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all processes; works on any device, unlike PyTorch's own."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "GlobalBatchNorm":
        own = cls(norm.num_features, norm.eps, norm.momentum)
        own.load_state_dict(norm.state_dict())
        return own.to(norm.weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = add_up(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = all_sum(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = all_sum(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
