"""Frozen DINOv2 ViT-S/14 features on solar cells: nearest neighbours and a linear probe.

Command: ``vitrail probe --recipe elpv_probe``
Cost: about 110 s on 2 CPU cores with bf16.
Expected: linear probe 87.65 %, ten nearest neighbours 82.01 % of the 656 held-out photographs.
"""

from __future__ import annotations

from vitrail.jobs.probe import ProbeConfig


def config() -> ProbeConfig:
    """Class token and mean patch, whole cells at 224."""
    return ProbeConfig(data="elpv", model="vit_small_patch14_dinov2", image_size=224, crop=1.0)
