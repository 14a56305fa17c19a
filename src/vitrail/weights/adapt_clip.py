"""Weights of an image tower or of a pair for another size, patch, number of bands or classes; a tower out of a pair."""

from __future__ import annotations

from dataclasses import replace

from vitrail.models import DualEncoderConfig, ImageTowerConfig, ViTConfig
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, fit_bands, fit_patches, fit_table
from vitrail.weights.adapt_plain import PROJECTION, fit_plain
from vitrail.weights.files import CheckpointError
from vitrail.weights.infer_clip import part_of
from vitrail.weights.names import State, Translated


def fit_tower(state: State, source: ImageTowerConfig, target: ImageTowerConfig, account: Account) -> None:
    """Bands, patches, positions and head of ``state`` for ``target``."""
    fit_plain(state, source, target, account)
    fit_table(state, "pos_embed", source.grid, target.grid, target.pos_resize, account)


def fit_pair(state: State, source: DualEncoderConfig, target: DualEncoderConfig, account: Account) -> None:
    """Bands, patches and positions of the image tower; texts do not stretch."""
    projection = f"image.{PROJECTION}"
    fit_bands(state, projection, source.in_channels, target.in_channels, account)
    fit_patches(state, projection, source.patch_size, target.patch_size, account)
    fit_table(state, "image.pos_embed", source.grid, target.grid, target.pos_resize, account)


def tower_of_pair(found: Translated) -> Translated:
    """The image tower alone, before the projection."""
    config = found.config
    if not isinstance(config, DualEncoderConfig):
        raise TypeError(f"a pair is wanted, not a {type(config).__name__}")
    account = found.account
    for theirs, ours in list(account.translated.items()):
        if ours.startswith("image."):
            account.translated[theirs] = ours.replace("image.", "")
        else:
            del account.translated[theirs]
            account.dropped[theirs] = "the rest of a pair, of which the image tower was asked for"
    return replace(found, config=config.tower, state=part_of(found.state, "image"), files={})


def tower_of_vit(found: Translated) -> Translated:
    """SigLIP's image tower, which timm and big_vision keep as any Vision Transformer without a class token."""
    config = found.config
    if not isinstance(config, ViTConfig):
        raise TypeError(f"a Vision Transformer is wanted, not a {type(config).__name__}")
    plain = ViTConfig(pool="attention", class_token=False)
    same = ("class_token", "distilled", "registers", "pool", "pool_norm", "mlp", "block", "qkv_bias", "qk_norm")
    differ = [name for name in (*same, "layer_scale", "mask_token") if getattr(config, name) != getattr(plain, name)]
    if differ:
        raise CheckpointError(f"{found.account.source}: no image tower of SigLIP: another {', '.join(differ)}")
    found.account.settle(["activation"])
    found.account.notes.append("the activation is the tanh form of the GELU, with which SigLIP was trained")
    return replace(
        found,
        config=ImageTowerConfig(
            img_size=config.img_size,
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            num_classes=config.num_classes,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            class_token=False,
            pool="attention",
            norm_eps=config.norm_eps,
            activation="gelu_tanh",
            embed_norm=False,
            pos_resize=config.pos_resize,
            fit=config.fit,
        ),
    )


FROM_FILE = frozenset({"activation", "norm_eps", "pos_resize", "mlp_ratio"})
ADAPTABLE = TRAINING | {"img_size", "patch_size", "in_channels", "pos_resize", "norm_eps", "activation"}

TOWER = Adaptation(
    from_the_file=FROM_FILE | {"num_classes", "pool", "pool_norm"},
    adaptable=ADAPTABLE | {"num_classes"},
    fit=fit_tower,
    takes={DualEncoderConfig: tower_of_pair, ViTConfig: tower_of_vit},
)
PAIR = Adaptation(
    from_the_file=FROM_FILE
    | {"text_mlp_ratio", "vocab_size", "context_length", "end_token", "pad_token", "clean", "loss"},
    adaptable=ADAPTABLE | {"end_token", "pad_token", "clean"},
    fit=fit_pair,
)
