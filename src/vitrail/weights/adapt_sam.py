"""Weights of SAM and of its image encoder for another size, number of bands or classes."""

from __future__ import annotations

from dataclasses import replace

from vitrail.models import SamConfig, SamEncoderConfig
from vitrail.nn.decomposed import resize_distances
from vitrail.nn.position import resize_bicubic_antialias, resize_positions
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, drop, fit_bands
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State, Translated
from vitrail.weights.sam import ENCODER


def fit(state: State, source: SamEncoderConfig, target: SamEncoderConfig, account: Account) -> None:
    """Bands, positions of both kinds, and classifier of ``state`` for ``target``."""
    prefix = ENCODER if isinstance(source, SamConfig) else ""
    fit_bands(state, f"{prefix}patch_embed.proj.weight", source.in_channels, target.in_channels, account)
    if source.num_classes != target.num_classes:
        drop(state, [name for name in ("head.weight", "head.bias") if name in state], account)
    if source.grid == target.grid:
        return
    old, new = ("×".join(map(str, grid)) for grid in (source.grid, target.grid))
    name = f"{prefix}pos_embed"
    table = resize_positions(state[name].flatten(1, 2), source.grid, target.grid, resize_bicubic_antialias)
    state[name] = table.unflatten(1, target.grid)
    account.changed[name] = f"grid {old} resized to {new} (bicubic_antialias)"
    for number in target.global_blocks:
        for axis, size in zip("hw", target.grid, strict=True):
            name = f"{prefix}blocks.{number}.attn.position_bias.rel_pos_{axis}"
            state[name] = resize_distances(state[name], size)
            account.changed[name] = f"grid {old} resized to {new} (linear)"


def encoder_alone(found: Translated) -> Translated:
    """The image encoder of SAM as a model of its own."""
    if not isinstance(found.config, SamConfig):
        raise CheckpointError(f"{found.account.source}: a {type(found.config).__name__} has no image encoder in it")
    for name in found.state:
        if not name.startswith(ENCODER):
            found.account.drop(name, "the image encoder alone was asked for")
    translated = {theirs: ours.removeprefix(ENCODER) for theirs, ours in found.account.translated.items()}
    found.account.translated = translated
    state = {name.removeprefix(ENCODER): t for name, t in found.state.items() if name.startswith(ENCODER)}
    return replace(found, config=found.config.encoder, state=state)


ENCODER_ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "norm_eps"}),
    adaptable=TRAINING | {"img_size", "in_channels", "num_classes"},
    fit=fit,
    takes={SamConfig: encoder_alone},
)
ADAPTATION = Adaptation(
    from_the_file=frozenset({"norm_eps", "decoder_eps"}),
    adaptable=TRAINING | {"img_size", "in_channels"},
    fit=fit,
)
