"""What this machine is quick at: asked by the clock once, and remembered in the user's cache folder.

Training (which precision) and inference (which precision, which layers) ask the same questions, so the answers stand
below both. An answer belongs to a processor or GPU, a version of torch and a number of threads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

WORTHWHILE_SPEEDUP = 1.3
"""Below this gain the rounding of bf16 is not worth having: casts and the parts that stay fp32 eat a small one."""
PRODUCT_SIZE = {"cuda": 4096, "mps": 1024, "cpu": 384}
"""Side of the square matrices whose product is timed."""
REPEATS = 12


def bf16_pays(device: torch.device) -> tuple[bool, str]:
    """Whether matrix products in bf16 are at least 1.3 times as quick as in fp32, and one line that says why."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return False, f"{torch.cuda.get_device_name(device)} has no bf16 units"
    try:
        slow, fast = remembered("product", device, lambda: _product_times(device))
    except RuntimeError as error:
        return False, f"a bf16 product fails on {device} ({error})"
    size = PRODUCT_SIZE[device.type]
    reason = f"a {size}² product takes {fast * 1e3:.2f} ms in bf16, {slow * 1e3:.2f} ms in fp32"
    return slow >= WORTHWHILE_SPEEDUP * fast, reason


def time_product(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one square matrix product."""
    size = PRODUCT_SIZE[device.type]
    left = torch.ones(size, size, device=device, dtype=dtype)
    # Reading one number back waits for the device, whichever it is.
    return best_of(lambda: (left @ left)[0, 0].item())[0]


def best_of(*runs: Callable[[], object]) -> list[float]:
    """Seconds of the quickest turn of each, after a round that is not counted.

    They take turns: an answer is remembered for good, and what else keeps the machine busy while one of them runs must
    not decide between them.
    """
    best = [math.inf] * len(runs)
    for counts in (False, *[True] * REPEATS):
        for place, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if counts:
                best[place] = min(best[place], time.perf_counter() - start)
    return best


def remembered(question: str, device: torch.device, measure: Callable[[], list[float]], count: int = 2) -> list[float]:
    """What ``measure`` gave the first time on this machine; a few numbers.

    Args:
        question: its name in the cache.
        device: what is measured.
        measure: asked when no answer is known; what it raises goes through, and nothing is remembered.
        count: how many numbers it gives; as a rule the times of two ways. No other answer is taken from the cache.
    """
    key = f"{question} · {describe(device)}"
    known = _read()
    if len(known.get(key, ())) != count:
        known = {**known, key: measure()}
        # A folder that cannot be written to costs the next process the same fraction of a second.
        with contextlib.suppress(OSError):
            _write(known)
    return known[key]


def describe(device: torch.device) -> str:
    """The processor or GPU, the version of torch, and the threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}"
    return f"{name} · torch {torch.__version__} · {torch.get_num_threads()} threads"


def user_cache() -> Path:
    """``$VITRAIL_CACHE``, or ``vitrail`` in ``$XDG_CACHE_HOME``, or ``~/.cache/vitrail``.

    A user without a home directory (a container's bare number) has a folder among the temporary files.

    Raises:
        OSError: that folder cannot be made, or is not the user's alone.
    """
    if own := os.environ.get("VITRAIL_CACHE"):
        return Path(own)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "vitrail"
    try:
        return Path.home() / ".cache" / "vitrail"
    except RuntimeError:
        return _temporary_cache()


def _temporary_cache() -> Path:
    """Where everybody may make folders, one that nobody else has put anything into: libraries are loaded from it."""
    temporary = Path(tempfile.gettempdir())
    if sys.platform == "win32":  # There they are the user's own.
        return temporary / "vitrail"
    user = os.geteuid()
    folder = temporary / f"vitrail-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Of the name itself: a link may lead to a folder of the user's and be somebody else's.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not the folder of user {user} alone: remove it, or set VITRAIL_CACHE")
    return folder


def cache_file() -> Path:
    """``machine.json`` in the user's cache."""
    return user_cache() / "machine.json"


def _product_times(device: torch.device) -> list[float]:
    return [time_product(device, torch.float32), time_product(device, torch.bfloat16)]


@cache
def processor_facts() -> Mapping[str, str]:
    """What Linux says of the first processor (``model name``, ``cpu family``, ``flags`` …); nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def processor_name() -> str:
    """The processor's name as Linux knows it, elsewhere as Python does."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def processor_units() -> frozenset[str]:
    """What the processor can do, as Linux calls it (``avx2``, ``amx_bf16`` …); nothing where it does not say."""
    return frozenset(processor_facts().get("flags", "").split())


def _processor() -> str:
    """The processor's name, its generation and its units for bf16.

    Virtual machines often hide the name; the generation and what the processor can do they do not.
    """
    facts = processor_facts()
    units = sorted({"avx512_bf16", "amx_bf16"} & processor_units())
    return " ".join([processor_name(), *(facts[key] for key in ("cpu family", "model") if key in facts), *units])


def _read() -> dict[str, list[float]]:
    """All answers; none where the file is missing or damaged."""
    try:
        known = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if _is_answer(value)}


def _is_answer(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(number, float) and 0 < number < math.inf for number in value)


def _write(known: dict[str, list[float]]) -> None:
    """The file as a whole or not at all, whoever else writes it."""
    file = cache_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".machine-")
    os.close(descriptor)
    Path(temporary).write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf-8")
    Path(temporary).replace(file)
