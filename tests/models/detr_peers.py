"""Transformers' DETR, small, with random weights: with its own ResNet, and with timm's."""

from __future__ import annotations

import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from .peers import perturb, pictures

SMALL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 7,
    "num_labels": 4,
}


def peer(kind: str, **options: object) -> DetrForObjectDetection:
    """``"own"``, ``"timm"`` or ``"dc5"`` (timm's, dilated); parameters and the constant norms away from their start."""
    if kind == "own":
        resnet = ResNetConfig(hidden_sizes=[256, 512, 1024, 2048], depths=[1, 2, 1, 1], out_features=["stage4"])
        config = DetrConfig(backbone_config=resnet, **{**SMALL, **options})
    else:
        config = DetrConfig(backbone="resnet26", dilation=kind == "dc5", **{**SMALL, **options})
    model = perturb(DetrForObjectDetection(config))
    assert isinstance(model, DetrForObjectDetection)
    unsettle_norms(model)
    with torch.no_grad():
        # Tokens of a size that trained ones have: larger ones would make every softmax a choice of one.
        (features, _), *_ = reversed(model.model.backbone(pictures(64, 96), torch.ones(2, 64, 96)))
        projection = model.model.input_projection
        projection.weight.div_(projection(features).std())
    return model


def unsettle_norms(model: nn.Module, seed: int = 1) -> None:
    """Statistics and factors of constant batch norms that are not those of an identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        noise = torch.rand(buffer.shape, generator=generator)
        if name.endswith("running_var"):
            buffer.copy_(0.1 + noise)
        elif name.endswith(("running_mean", "bias")):
            buffer.copy_(0.4 * noise - 0.2)
        elif name.endswith("weight"):
            buffer.copy_(0.5 + noise)
