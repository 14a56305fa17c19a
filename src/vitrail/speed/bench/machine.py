"""What figures were measured on: without it they say nothing."""

from __future__ import annotations

import os
import platform
import sys

import torch

from vitrail.machine import processor_name, processor_units

_UNITS = (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX512"), ("avx2", "AVX2"))


def machine() -> str:
    """Processor, cores that may be used, the widest arithmetic units that it names, memory, system: one line."""
    flags = processor_units()
    units = next((name for flag, name in _UNITS if flag in flags), "")
    system = f"{platform.system()}, Python {platform.python_version()}"
    parts = [f"{cores()} cores of {processor_name()}", units, _memory(), system]
    if torch.cuda.is_available():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(part for part in parts if part)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return ""
