"""What detection and segmentation toolkits store around a backbone."""

from __future__ import annotations

DENSE_DROPS = {
    r"(neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head|fpn\d?)\..*": (
        "the head of a detector or of a segmentation model: only the backbone is read"
    ),
    r"hidden_states_norms\..*|norm\d+\.(weight|bias)": "a norm of one of a detector's feature maps",
}
"""Patterns of such names, and why they are left out. A norm that is the backbone's last one is named before them."""
