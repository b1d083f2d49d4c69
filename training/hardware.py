"""What computes: the device and its precision, memory, seeds, whether it repeats exactly; and its versions."""

import ctypes
import os
import platform
import random
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch

from utils import UserError

GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@dataclass(frozen=True)
class Hardware:
    """The device and the precision in which the network computes."""

    device: torch.device
    bf16: bool  # bfloat16 autocast: half the bytes, the exponent range of float32

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, which convolutions prefer, except in fp32 on the CPU.

        There PyTorch's batch norm sums channels-last activations one by one in fp32, which is off by 5e-4 at the
        size of a batch; a step would no longer equal the plain one.
        """
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
    try:
        chosen = torch.empty(1, device=torch.device(device)).device  # with its index: cuda -> cuda:0
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {device}: cannot be used here ({reason}). Leave the option out.") from None
    return Hardware(chosen, bf16=precision == "bf16" or (precision == "auto" and computes_bf16(chosen)))


def hardware_like(device: str, precision: str) -> Hardware:
    """Return the hardware for a network trained in this precision; fp32 where bf16 is only simulated, which is slow."""
    hardware = choose_hardware(device, precision)
    if hardware.bf16 and not computes_bf16(hardware.device):
        hardware = replace(hardware, bf16=False)
        print(f"note: trained in bf16, which this hardware has not, so that it computes in {hardware}")
    return hardware


def computes_bf16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 arithmetic of its own; where it is simulated, it is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it to the kernel at every layer.

    Activations are large: each would come from a fresh mapping, whose pages the kernel has to clear again in each step.
    """
    M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # malloc.h
    if GLIBC:
        GLIBC.mallopt(M_MMAP_MAX, 0)
        GLIBC.mallopt(M_TRIM_THRESHOLD, -1)
        GLIBC.mallopt(M_MXFAST, 0)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on a CUDA device, elsewhere of the whole process.

    0 where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, KiB elsewhere


def set_seeds(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CPU, CUDA and MPS


def repeat_exactly(exact: bool, sizes_vary: bool = False) -> None:
    """Exact: one seed gives the same bits on one machine. Else cuDNN tries kernels for each size, unless they vary."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before its first use
    torch.use_deterministic_algorithms(exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not (exact or sizes_vary)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
