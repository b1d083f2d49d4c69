"""What several scripts share and no topic owns: mistakes of the user, hardware, seeds, whole files."""

import argparse
import contextlib
import ctypes
import os
import platform
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

USER_ERROR = 2  # exit codes: a mistake of the user, as argparse has it;
SYSTEM_ERROR = 1  # a disk that is full, a file that may not be written;
SIGNALLED = 128  # plus the number of the signal: stopped by Ctrl-C (130) or by SIGTERM (143), after saving
GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
TEMPORARY = ".tmp"  # ends the name of a file that is being written


class UserError(Exception):
    """Something that the user can mend. The message names the file, what is wrong with it, and the remedy."""


def run_script(main: Callable[[], None]) -> None:
    """Run the main function of a script; a mistake of the user ends it with one message and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        print(f"error: {error.filename}: {error.strerror}. Name another place to write to.", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        sys.exit(SYSTEM_ERROR)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(SIGNALLED + signal.SIGINT)


class StopRequest:
    """Remembers the first SIGINT or SIGTERM, so that a loop can end where its work is whole; a second one aborts.

    Call it to ask whether a signal has come. `signal` is its number, 0 while there is none.
    """

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def __call__(self) -> bool:
        return self.signal != 0

    def _remember(self, number: int, frame: object) -> None:
        self.signal = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)


def positive(number_type: type) -> Callable[[str], int | float]:
    """An argparse type: a finite number greater than 0."""

    def parse(text: str) -> int | float:
        number = number_type(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return number

    parse.__name__ = f"positive {number_type.__name__}"  # argparse shows it when the text is no number at all
    return parse


@dataclass(frozen=True)
class Hardware:
    """Where and in which precision the network computes."""

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
    """CUDA, else MPS, else the CPU, unless `device` names one; bf16 where the hardware computes in it."""
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        chosen = torch.empty(1, device=torch.device(device)).device  # with its index: cuda -> cuda:0
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--device {device}: cannot be used here ({reason}). Leave the option out to let the program choose."
        ) from None
    return Hardware(chosen, bf16=precision == "bf16" or (precision == "auto" and computes_bf16(chosen)))


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic of its own; where it is simulated, it is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def keep_freed_memory() -> None:
    """Ask glibc to keep what tensors give back, instead of returning it to the kernel at every layer.

    Activations are large, so that each one would come from a fresh mapping, whose pages the kernel has to
    clear again in every step. Does nothing where the C library is another one.
    """
    M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # malloc.h
    if GLIBC:
        GLIBC.mallopt(M_MMAP_MAX, 0)
        GLIBC.mallopt(M_TRIM_THRESHOLD, -1)
        GLIBC.mallopt(M_MXFAST, 0)


def start_anew_to_save_memory() -> None:
    """Start this script again with a setting of glibc that can only be made before a process starts.

    Tensors are aligned to 64 bytes, for which glibc cuts a few bytes off each block, and hands these to later small
    requests. The block that is freed is then too small for the next tensor of its size. Without the cache of
    small pieces they are joined again: a fifth less memory in training a wide network, no time. Costs the start of
    Python; does nothing inside a notebook or another program, or where the C library is another one.
    """
    setting, variable = "glibc.malloc.tcache_count=0", "GLIBC_TUNABLES"
    given = os.environ.get(variable, "")
    if GLIBC and setting not in given and sys.orig_argv[1:] == sys.argv:
        os.environ[variable] = f"{given}:{setting}" if given else setting
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors have taken of a CUDA device; elsewhere the most this process has had resident.

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


def repeat_exactly(exact: bool) -> None:
    """Exact: the same seed on the same machine gives the same bits. Otherwise cuDNN may pick what is fastest."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before its first use
    torch.use_deterministic_algorithms(exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact


def versions() -> dict[str, str]:
    """What a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` complete or not at all.

    Written under a temporary name in the same folder, forced to the disk, then renamed. A failure leaves what
    was at `path` before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not be written: {error.strerror}", str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole, in UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode())
