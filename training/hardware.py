"""The hardware: device, precision, memory, seeds, exact repetition, and several processes that train as one."""

import ctypes
import gc
import os
import platform
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils import UserError, cores


@dataclass(frozen=True)
class Hardware:
    """The device and the precision in which the network computes."""

    device: torch.device
    bf16: bool  # bfloat16 autocast: half the bytes, the exponent range of float32

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, which convolutions prefer, except in fp32 on the CPU: batch norm then errs by 5e-4."""
        plain = self.device.type == "cpu" and not self.bf16
        return torch.contiguous_format if plain else torch.channels_last

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        return f"{self.device} ({name}), {'bf16 autocast' if self.bf16 else 'fp32'}"


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Return CUDA, else MPS, else the CPU, unless `device` names one.

    precision: fp32 or bf16; auto takes bf16 where the hardware computes in it.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun gives each process its own GPU
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        chosen = torch.empty(1, device=torch.device(device)).device  # with its index: cuda -> cuda:0
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {device}: cannot be used here ({reason}). Leave the option out.") from None
    torch.set_num_threads(min(torch.get_num_threads(), cores()))  # it knows of no quota
    return Hardware(chosen, bf16=precision == "bf16" or (precision == "auto" and computes_bf16(chosen)))


def device_of(number: int, device: str = "auto") -> str:
    """Return the device of one of several processes, counted from 0: auto gives each a GPU, in turn."""
    gpus = torch.cuda.device_count()
    return f"cuda:{number % gpus}" if device == "auto" and gpus > 1 else device


def computes_bf16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 arithmetic of its own; simulated, it is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it to the kernel at every layer.

    Activations are large: each would come from a fresh mapping, and the kernel would clear its pages in each step.
    """
    M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # malloc.h
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MXFAST, 0)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on a CUDA device, on Linux of the whole process; else 0."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def repeat_exactly(exact: bool, device: torch.device, sizes_vary: bool = False) -> None:
    """Exact: one seed gives the same bits on one machine. Else cuDNN tries kernels for each size, unless they vary.

    On a CPU every operation used here is deterministic; PyTorch's switch would only import its compiler, 3 s.
    """
    if device.type == "cpu":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS, before its first use
    torch.use_deterministic_algorithms(exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not (exact or sizes_vary)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    return versions | {"platform": platform.platform()}


# --- Several processes, started by torchrun: each trains on its rows of every batch ------------------------------


def join_processes(device: torch.device) -> None:
    """Join the other processes, if torchrun started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave_processes() -> None:
    """Leave the other processes, all at the same time, before the interpreter ends."""
    if dist.is_initialized():
        dist.barrier()
        gc.collect()  # wrapped networks keep the group's threads alive
        dist.destroy_process_group()


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; process 0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def say(text: str) -> None:
    """Print at once, for logs that are followed; only process 0 prints."""
    if rank() == 0:
        print(text, flush=True)


def sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    """Sum x over the processes, in place."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network ready for training by all processes; its parameters and buffers remain those of `model`.

    On the CPU, where PyTorch has no synchronised batch norm, each process normalises its own rows.
    """
    if world() == 1:
        return model
    if device.type == "cuda":
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model), device_ids=[device.index])
    return DistributedDataParallel(model)
