"""What figures were measured on: without it they say nothing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

_UNITS = (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX512"), ("avx2", "AVX2"))


def machine() -> str:
    """Processor, cores that may be used, the widest arithmetic units that it names, memory, system: one line."""
    facts = _facts(Path("/proc/cpuinfo"))
    flags = facts.get("flags", "").split()
    units = next((name for flag, name in _UNITS if flag in flags), "")
    name = facts.get("model name") or platform.processor() or platform.machine()
    parts = [f"{cores()} cores of {name}", units, _memory(), f"{platform.system()}, Python {platform.python_version()}"]
    if torch.cuda.is_available():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(part for part in parts if part)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _facts(path: Path) -> dict[str, str]:
    """The first processor's lines."""
    try:
        block = path.read_text().split("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return ""
