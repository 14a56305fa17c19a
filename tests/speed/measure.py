"""Peak memory of a real run, in a process of its own: ``python measure.py MODEL BATCH inference|training``.

Prints bytes. Freed memory is given back at once (every block is mapped by itself), so that what is measured is what was
alive and not how the allocator scatters it.
"""

import ctypes
import re
import sys
from pathlib import Path

libc = ctypes.CDLL("libc.so.6")
M_MMAP_THRESHOLD = -3
libc.mallopt(M_MMAP_THRESHOLD, 65536)

import torch  # noqa: E402  (the allocator is set before anything allocates)

from vitrail.models import ModelConfig, build, config_of  # noqa: E402


def status(key: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def run(config: ModelConfig, batch: int, how: str) -> None:
    """A forward pass, or two steps of training."""
    model = build(config)
    inputs = model.example_inputs(batch)
    if how == "inference":
        with torch.no_grad():
            model.eval()(*inputs)
        return
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        model.train()(*inputs).sum().backward()
        optimiser.step()
        optimiser.zero_grad()


if __name__ == "__main__":
    name, batch, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    # Once in small: kernels and libraries are loaded now and do not count.
    run(config_of("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 1, "num_classes": 10}), 1, how)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run(config_of(name), batch, how)
    print(status("VmHWM") - before)
