"""What this machine is: its devices and memory, and how large a model it can train by the table of docs/design.md."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

LIBRARIES = ("preftree", "torch", "transformers", "peft", "datasets", "pyarrow", "safetensors")
EXTRAS = {
    "quant": "bitsandbytes",
    "vllm": "vllm",
    "near": "datasketch",
    "gguf": "gguf",
    "collect": "starlette",
    "judge": "openai",
    "stats": "statsmodels",
    "track": "wandb",
}
"""By extra: a library of it."""

BYTES_A_WEIGHT = {
    "all weights": 16.0,
    "all weights, optimizer=adamw_8bit": 10.03,
    "lora": 4.0,
    "lora, quantize=nf4": 0.52,
}
"""Of weights, gradients and optimiser in fp32 (docs/design.md, "Memory"); an adapter's own are few, and left out."""

FOR_WEIGHTS = 2 / 3
"""Share of the memory for these; the rest is for activations and the system."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that can compute.

    Attributes:
      name: `cpu`, `mps`, or `cuda:0` and so on.
      words: Its name in words.
      memory: Its memory in bytes.
      bf16: Whether its bf16 products are `native` or `emulated`.
    """

    name: str
    words: str
    memory: int
    bf16: str


def best_device() -> torch.device:
    """The first CUDA device, or the CPU where there is none: for what sums in float64, which Apple GPUs lack."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampling_device() -> torch.device:
    """The device that responses are drawn on: as `best_device`, and an Apple GPU before the CPU."""
    device = best_device()
    return torch.device("mps") if device.type == "cpu" and torch.backends.mps.is_available() else device


def devices(cpu_emulates_bf16: bool) -> list[Device]:
    """Every device of this machine, the best first."""
    memory = psutil.virtual_memory().total
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        bf16 = "native" if about.major >= 8 else "emulated"
        found.append(Device(f"cuda:{index}", about.name, about.total_memory, bf16))
    words = f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    words += f", {psutil.cpu_count(logical=False)} cores"
    found.append(Device("cpu", words, memory, "emulated" if cpu_emulates_bf16 else "native"))
    if torch.backends.mps.is_available():  # it draws responses, and trains nothing
        found.append(Device("mps", "Apple GPU", memory, "not tested"))
    return found


def versions() -> dict[str, str]:
    """Version of Python and of each library that runs depend on; `missing` where there is none."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "missing"
    return found


def extras() -> dict[str, bool]:
    """Whether each extra of the package is installed."""
    return {extra: importlib.util.find_spec(library) is not None for extra, library in EXTRAS.items()}


def largest_models(memory: int) -> dict[str, float]:
    """Parameters of the largest model that fits, by the way of training: FOR_WEIGHTS of the memory over its bytes."""
    return {way: FOR_WEIGHTS * memory / each for way, each in BYTES_A_WEIGHT.items()}


def peak_resident() -> int:
    """Most bytes of memory that this process has held."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder, which may not exist yet, is on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
