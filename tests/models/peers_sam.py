"""Small peers of SAM: Transformers', the authors' package (segment-anything-py) and timm's image encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from vitrail.models import Sam
from vitrail.weights import load_checkpoint

from .peers import perturb

DIM, NECK, DEPTH, WINDOW, GLOBAL = 32, 32, 3, 3, (1,)


def transformers_sam(size: int = 64, window: int = WINDOW) -> nn.Module:
    """Transformers' SamModel on a grid of ``size / 16``, perturbed; frequencies of deviation 1, as published."""
    import transformers

    torch.manual_seed(4)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": DIM,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": 2,
            "image_size": size,
            "window_size": window,
            "global_attn_indexes": list(GLOBAL),
            "output_channels": NECK,
            "num_pos_feats": NECK // 2,
        },
        prompt_encoder_config={"hidden_size": NECK, "image_size": size},
        mask_decoder_config={
            "hidden_size": NECK,
            "num_attention_heads": 2,
            "mlp_dim": 48,
            "iou_head_hidden_dim": 24,
        },
    )
    model = perturb(transformers.SamModel(config))
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.normal_(generator=torch.Generator().manual_seed(3))
    return model


def authors_sam(grid: tuple[int, int] = (4, 4)) -> nn.Module:
    """The authors' Sam on a grid of that size; 8 heads in the decoder, as shapes do not tell."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling import Sam as Theirs

    torch.manual_seed(5)  # Frequencies and biases, which perturbing does not replace.
    encoder = ImageEncoderViT(
        img_size=16 * max(grid),
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=2,
        out_chans=NECK,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=GLOBAL,
    )
    # Theirs are made for squares; the tables of another grid are all that it takes.
    encoder.pos_embed = nn.Parameter(torch.zeros(1, *grid, DIM))
    for number in GLOBAL:
        encoder.blocks[number].attn.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, DIM // 2))
        encoder.blocks[number].attn.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, DIM // 2))
    return perturb(
        Theirs(
            encoder,
            PromptEncoder(NECK, grid, (16 * grid[0], 16 * grid[1]), mask_in_chans=16),
            MaskDecoder(
                transformer_dim=NECK,
                transformer=TwoWayTransformer(depth=2, embedding_dim=NECK, num_heads=8, mlp_dim=48),
                iou_head_hidden_dim=24,
            ),
        )
    )


def timm_encoder(num_classes: int = 0) -> nn.Module:
    """timm's samvit on a 4×4 grid, with the norms' epsilon that the authors trained with."""
    import timm

    model = timm.create_model(
        "samvit_base_patch16",
        img_size=64,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=2,
        window_size=WINDOW,
        global_attn_indexes=GLOBAL,
        neck_chans=NECK,
        num_classes=num_classes,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    return perturb(model)


def save_pth(model: nn.Module, file: Path) -> Path:
    """A state dict as the authors publish it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return file


def load_sam(path: Path) -> Sam:
    model = load_checkpoint(path).model
    assert isinstance(model, Sam)
    return model
