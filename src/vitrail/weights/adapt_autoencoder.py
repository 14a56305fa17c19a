"""Weights of masked autoencoders: for another size, and of their encoders alone."""

from __future__ import annotations

from dataclasses import replace

from vitrail.models import AutoencoderConfig, MAEConfig, VideoMAEConfig
from vitrail.nn.position import RESIZES, resize_positions
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State, Translated

ENCODER = "encoder."
LEFT = "the decoder of masked pretraining, which the encoder alone leaves behind"


def encoder_of(state: State) -> State:
    """The encoder's weights by its own names."""
    return {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}


def encoder_alone(found: Translated) -> Translated:
    """The encoder of a masked autoencoder as a model of its own family."""
    if not isinstance(found.config, AutoencoderConfig):
        raise CheckpointError(f"{found.account.source}: a {type(found.config).__name__} has no encoder to take out")
    account = found.account
    for theirs, ours in list(account.translated.items()):
        if ours.startswith(ENCODER):
            account.translated[theirs] = ours.removeprefix(ENCODER)
        else:
            del account.translated[theirs]
            account.dropped[theirs] = LEFT
    return replace(found, config=found.config.encoder, state=encoder_of(found.state))


def _fit_pictures(state: State, source: MAEConfig, target: MAEConfig, account: Account) -> None:
    """Both position tables of ``state`` for the grid of ``target``."""
    old, new = source.encoder.grid, target.encoder.grid
    if old == new:
        return
    for table in ("encoder.pos_embed", "decoder_pos_embed"):
        state[table] = resize_positions(state[table], old, new, RESIZES[target.pos_resize])
        grids = ["×".join(map(str, grid)) for grid in (old, new)]
        account.changed[table] = f"grid {grids[0]} resized to {grids[1]} ({target.pos_resize})"


def _fit_clips(state: State, source: VideoMAEConfig, target: VideoMAEConfig, account: Account) -> None:
    """Nothing is stored of the grid; that positions mean something else on a new one is said."""
    note_positions(source.encoder.grid, target.encoder.grid, account)


def note_positions(old: tuple[int, ...], new: tuple[int, ...], account: Account) -> None:
    """Say that the positions of a clip's tokens are computed anew for another grid."""
    if old != new:
        grids = ["×".join(map(str, grid)) for grid in (old, new)]
        account.notes.append(
            f"grid {grids[0]} to {grids[1]}: positions follow a token's number, so that the same place has another one"
        )


PICTURES = Adaptation(
    from_the_file=frozenset({"norm_eps", "mlp_ratio", "decoder_mlp_ratio", "pos_resize", "mask_ratio"}),
    adaptable=TRAINING | {"img_size", "norm_eps", "pos_resize", "mask_ratio"},
    fit=_fit_pictures,
)
CLIPS = Adaptation(
    from_the_file=frozenset({"norm_eps", "decoder_norm_eps", "mlp_ratio", "decoder_mlp_ratio"}),
    adaptable=TRAINING | {"img_size", "frames", "norm_eps", "decoder_norm_eps", "mask_ratio"},
    fit=_fit_clips,
)
