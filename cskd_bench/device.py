"""The device: which one this process takes, in which arithmetic it computes, what it holds; only here is CUDA named."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from cskd_bench.errors import UserError

_HALF: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")


def gpu_count() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_memory() -> int:
    """Return the bytes of the first GPU that this process sees; 0 without one."""
    return int(torch.cuda.get_device_properties(0).total_memory) if gpu_count() else 0


def default_device(said: str = "CSKD_BENCH_DEVICE=") -> torch.device:
    """Return the device of this process, and make it CUDA's current one; CSKD_BENCH_DEVICE (cpu, cuda, cuda:1) insists.

    UserError for a device that is not there; `said` is where the variable's value was given.
    """
    asked, gpus = os.environ.get("CSKD_BENCH_DEVICE", ""), gpu_count()
    if asked == "cpu" or (asked == "" and gpus == 0):
        return torch.device("cpu")
    numbered = asked.startswith("cuda:")
    number = asked.removeprefix("cuda:") if numbered else os.environ.get("LOCAL_RANK") or "0"
    fits = number.isascii() and number.isdecimal() and int(number) < gpus
    if gpus == 0 or not (fits if numbered else asked in ("", "cuda")):
        raise UserError(f"{said}{asked}: use cpu, cuda, or cuda:N of {gpus} GPUs here")
    if not fits:
        raise UserError(
            f"LOCAL_RANK={number}: {gpus} GPUs are visible here, counted from 0; start as many processes as GPUs"
        )
    device = torch.device("cuda", int(number))
    torch.cuda.set_device(device)  # else library code that says "cuda" would work on cuda:0
    return device


def gpu_environment(numbers: tuple[int, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give a process its GPUs; none where CSKD_BENCH_DEVICE says where to work."""
    if not numbers or environment.get("CSKD_BENCH_DEVICE"):
        return {}
    if len(numbers) == 1:
        return {"CSKD_BENCH_DEVICE": f"cuda:{numbers[0]}"}
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number] if visible else str(number) for number in numbers)}


@contextmanager
def only(device: torch.device) -> Iterator[None]:
    """Let library code find no other device: "cuda" is this GPU, and on a CPU torch says that there is none.

    What was there comes back at the end.
    """
    if device.type == "cuda":
        before = torch.cuda.current_device()
        torch.cuda.set_device(device)
        try:
            yield
        finally:
            torch.cuda.set_device(before)
        return
    found, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = found


@contextmanager
def exact_fp32(tf32: bool = False) -> Iterator[None]:
    """Keep fp32 matrix products and convolutions in fp32: torch lets cuDNN round their operands to TF32 by default.

    cuDNN does not try out its algorithms either: today's fastest may not be tomorrow's, and rounds otherwise.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    cudnn.benchmark = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in a precision: fp32 is fp32, tf32 rounds operands on the GPU's units, fp16 and bf16 are autocast."""
    half = _HALF.get(precision)
    with exact_fp32(tf32=precision == "tf32"), torch.autocast(device.type, dtype=half, enabled=half is not None):
        yield


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn a GPU's full memory into a sentence that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        told = (str(error).splitlines() or ["no further words"])[0]
        raise UserError(
            f"the GPU's memory is full ({told}); raise run.accumulate, or lower "
            "run.eval_batch_size where it was scoring; the same command continues"
        ) from error


def check_precision(device: torch.device, precision: str, key: str) -> None:
    """UserError where a device has no units for a precision that it would replace in silence."""
    if precision == "tf32" and "tf32" not in precisions(device):
        raise UserError(f'{key}: "tf32" needs a GPU with TF32 units (Ampere or newer); use "fp32" on this device')


def precisions(device: torch.device) -> list[str]:
    """Return the precisions that a device has units for, fp32 first; a CPU without units converts, slowly."""
    if device.type != "cuda":
        return ["fp32", "fp16", "bf16"]
    tf32 = ["tf32"] if torch.cuda.get_device_capability(device) >= (8, 0) else []
    return ["fp32", *tf32, "fp16", *(["bf16"] if has_bf16() else [])]


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the draws of dropout and stochastic depth on the CPU and on the device in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def pins(device: torch.device) -> bool:
    """Say whether loaders pin their batches: for a GPU that is in use alone, since pinning wakes CUDA."""
    return device.type == "cuda"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor through pinned memory, so that the host goes on while a GPU works; a CPU's stays as it is."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A small tensor on its way to the host; the device goes on while nobody asks for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._copy = tensor.detach()
        if tensor.device.type == "cuda":
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor.detach(), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def values(self) -> list[float]:
        """Return the numbers, as soon as the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._copy.flatten().tolist()]


def steps_behind(device: torch.device) -> int:
    """Return how many steps late flags are read: a GPU's host runs one step ahead, a CPU's none."""
    return 1 if device.type == "cuda" else 0


def synchronize() -> None:
    """Wait until the GPU in use, if any, has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """Describe the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


class Accelerator(NamedTuple):
    """A GPU and what drives it; empty on a CPU."""

    gpus: tuple[str, ...] = ()
    cuda_version: str = ""
    cudnn_version: str = ""
    driver_version: str = ""


def accelerator(device: torch.device) -> Accelerator:
    """Name the device's GPU, and the versions of CUDA, cuDNN and the driver."""
    if device.type != "cuda":
        return Accelerator()
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return Accelerator((torch.cuda.get_device_name(device),), torch.version.cuda or "", str(cudnn or ""), _driver())


def _driver() -> str:
    """Return the version of NVIDIA's driver; empty where nothing tells it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return told[0] if told else ""


def rounds_to_tf32(device: torch.device) -> bool:
    """Say whether torch, as it is set here, may round operands of products or convolutions to TF32."""
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return bool(allowed) and "tf32" in precisions(device)


def is_deterministic() -> bool:
    """Say whether torch was told to use deterministic algorithms alone."""
    return torch.are_deterministic_algorithms_enabled()


def describe_gpus() -> str:
    """Name the GPUs that this process sees and torch's CUDA version; empty where there are none."""
    found = []
    for index in range(gpu_count()):
        about = torch.cuda.get_device_properties(index)
        found.append(f"{about.name}, {about.total_memory / 1e9:.0f} GB")
    return f"CUDA {torch.version.cuda}, {'; '.join(found)}" if found else ""


def chosen_devices(environment: Mapping[str, str]) -> str:
    """Say which GPUs this process sees, and what of that the environment has chosen."""
    names = [torch.cuda.get_device_name(index) for index in range(gpu_count())]
    seen = f"{len(names)} GPUs visible{': ' if names else ''}{', '.join(names)}"
    keys = ("CUDA_VISIBLE_DEVICES", "CSKD_BENCH_DEVICE")
    return "; ".join([seen, *(f"{key}={environment[key]}" if key in environment else f"{key} not set" for key in keys)])


def has_bf16() -> bool:
    """Say whether the current GPU has units for bf16."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def gpu_hours(seconds: float, ranks: int, device: torch.device) -> float:
    """Return the GPU-hours of a run; none on a CPU."""
    return seconds / 3600 * ranks if device.type == "cuda" else 0.0


class PeakMemory:
    """The most bytes that were in use since the last of these was made: on the device for CUDA, else of the process.

    Worker processes that load images are not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = _forget_peak(device)

    def bytes(self) -> int:
        """Return the peak; 0 where the system cannot forget what was used before."""
        return peak_memory(self._device) if self._began else 0


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use since the last PeakMemory was made; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _forget_peak(device: torch.device) -> bool:
    """Let the peak of memory be what is in use now; return whether that was possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5", encoding="utf-8")  # Linux: the high-water mark alone
    except OSError:
        return False
    return True
