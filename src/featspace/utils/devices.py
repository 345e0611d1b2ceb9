"""The device that networks run on, its name and its memory."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from featspace.utils.errors import FeatspaceError, one_line

GIB = 2**30
LIMITS = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
"""Where Linux tells how much memory a container may take."""


def choose_device(name: str = "auto") -> torch.device:
    """`cpu`, `cuda`, or with `auto` the GPU if one can be used, else the CPU.

    Raises FeatspaceError, with what PyTorch says, if `cuda` is asked for and cannot be used: there is no GPU, or its
    driver is missing or too old.
    """
    if name == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings():  # of a driver that cannot be used: as an error below, or what `auto` is for
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            return torch.device("cuda")
    if name == "auto":
        return torch.device("cpu")
    try:
        torch.cuda.init()
        reason = "no device is visible"
    except (RuntimeError, AssertionError) as error:  # an AssertionError where PyTorch is built for the CPU
        reason = one_line(error)
    raise FeatspaceError(
        f"device is cuda, but no GPU can be used here ({reason}); run this where there is an NVIDIA GPU with a recent "
        "driver, or, much slower, with device: cpu"
    )


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; a CPU that does not is many times as slow in it as in float32."""
    able = torch.cpu.get_capabilities()
    return device.type != "cpu" or bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def device_name(device: torch.device) -> str:
    """The GPU's model, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")  # of Linux; elsewhere platform knows
    model = re.search(r"^model name\s*: (.+)$", known.read_text(), re.MULTILINE) if known.is_file() else None
    cpu, threads = model[1] if model else platform.processor() or platform.machine(), torch.get_num_threads()
    return f"{cpu}, {threads} thread{'s' if threads > 1 else ''}"


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; for the CPU those that are available now, within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free, own = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    limits = [path.read_text().strip() for path in LIMITS if path.is_file()]
    return max(0, min([free, *(int(limit) - own for limit in limits if limit.isdigit())]))


def cpu_kernels(model: nn.Module) -> Callable[[], contextlib.AbstractContextManager]:
    """Steers around PyTorch's two slow bfloat16 kernels on CPUs; returns a context for the forward pass.

    There, normalizing groups is four times and fused attention ten times as slow as in float32, which costs more
    than the fast matrix products save.
    """
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return lambda: sdpa_kernel(SDPBackend.MATH)


def weights_sum(*networks: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in sorted(network.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
