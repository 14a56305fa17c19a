"""What makes a convolutional model tiny; the widths of a ResNet are torchvision's own."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "resnet18": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "resnet50": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "convnext_tiny": {"img_size": 64, "depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32)},
}
