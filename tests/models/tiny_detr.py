"""DETR, made tiny for the tests over all models; its ResNet keeps torchvision's widths, one block a stage."""

TINY: dict[str, dict] = {
    name: {
        "img_size": (64, 96),
        "depths": (1, 1, 1, 1),
        "embed_dim": 16,
        "num_heads": 2,
        "encoder_depth": 2,
        "decoder_depth": 2,
        "mlp_ratio": 2.0,
        "num_queries": 5,
        "num_classes": 5,
    }
    for name in ("detr_resnet50", "detr_resnet50_dc5")
}
