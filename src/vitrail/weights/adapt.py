"""Pretrained weights for a model that differs from theirs: other size, patch, bands or classes."""

from __future__ import annotations

from dataclasses import fields

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.models import Backbone, ViTConfig, build
from vitrail.nn.embed import as_pair
from vitrail.nn.position import RESIZES, resize_positions, sincos_2d
from vitrail.weights.account import Account, shorten
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State, Translated

ADAPTABLE = frozenset(
    {
        *("img_size", "patch_size", "in_channels", "num_classes", "pool", "pool_norm", "mask_token", "positions"),
        *("fit", "pos_resize", "norm_eps", "layer_scale", "dropout", "attention_dropout", "drop_path", "init"),
    }
)
"""Fields that may differ from the checkpoint's; any other would make its weights meaningless."""

FRESH = "not in the checkpoint: initialised anew"


def fit_to(found: Translated, target: ViTConfig) -> State:
    """The found weights for a model of ``target``; weights that have to be made anew are left out.

    What is changed, dropped or missing goes into ``found.account``.

    Raises:
        CheckpointError: another architecture, naming the fields that differ.
    """
    source, account = found.config, found.account
    _require_same_architecture(source, target, account)
    state = dict(found.state)
    projection = "patch_embed.proj.weight"
    if source.in_channels != target.in_channels:
        state[projection] = adapt_channels(state[projection], target.in_channels)
        account.changed[projection] = f"{source.in_channels} bands to {target.in_channels}"
    new_patch = as_pair(target.patch_size)
    if as_pair(source.patch_size) != new_patch:
        state[projection] = resize_patches(state[projection], new_patch)
        account.changed[projection] = f"patches of {source.patch_size} to {target.patch_size} pixels (pseudo-inverse)"
    _fit_positions(state, source, target, account)
    for name in _stale(source, target, state):
        account.drop(name, "the model asked for has another head or pool")
        del state[name]
    return state


def load_into_fresh(found: Translated, target: ViTConfig) -> Backbone:
    """A model of ``target`` with the found weights; what they lack is initialised, and said in the account."""
    state = fit_to(found, target)
    with torch.device("meta"):
        model = build(target)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        model = build(target)
        found.account.missing |= dict.fromkeys(missing, FRESH)
    else:
        # Every weight is about to be overwritten: initialising them would only cost time.
        model = model.to_empty(device="cpu")
    wrong = [n for n, tensor in wanted.items() if n in state and state[n].shape != tensor.shape]
    extra = [name for name in state if name not in wanted]
    if wrong or extra:
        raise CheckpointError(f"{found.account.source}: does not fit the model asked for: {shorten(wrong + extra)}")
    model.load_state_dict(state, strict=not missing)
    return model.eval()


def _require_same_architecture(source: ViTConfig, target: ViTConfig, account: Account) -> None:
    differ = [
        f"{field.name} {getattr(source, field.name)} (asked for: {getattr(target, field.name)})"
        for field in fields(ViTConfig)
        if field.name not in ADAPTABLE and not _same(getattr(source, field.name), getattr(target, field.name))
    ]
    if (source.layer_scale is None) != (target.layer_scale is None):
        differ.append(f"layer scale {source.layer_scale} (asked for: {target.layer_scale})")
    if differ:
        raise CheckpointError(f"{account.source}: another architecture than the one asked for: {'; '.join(differ)}")


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-6
    return one == other


def _stale(source: ViTConfig, target: ViTConfig, state: State) -> list[str]:
    """Weights of the found model that have no sense in the one asked for."""
    stale: list[str] = []
    new_pool = source.pool != target.pool
    if target.num_classes != source.num_classes or new_pool:
        stale += ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    if new_pool and source.pool == "attention":
        stale += [name for name in state if name.startswith("attn_pool.")]
    if new_pool or source.pool_norm != target.pool_norm:
        stale += ["fc_norm.weight", "fc_norm.bias"] if source.pool_norm else []
    if source.pool_norm != target.pool_norm and target.pool_norm:
        stale += ["norm.weight", "norm.bias"]
    if source.mask_token and not target.mask_token:
        stale.append("mask_token")
    return [name for name in stale if name in state]


def _fit_positions(state: State, source: ViTConfig, target: ViTConfig, account: Account) -> None:
    if target.positions == "sincos" and source.positions != "sincos":
        prefix = state["pos_embed"].shape[1] - source.grid[0] * source.grid[1]
        table = sincos_2d(target.embed_dim, target.grid, prefix)
        if table.shape != state["pos_embed"].shape or not torch.allclose(table, state["pos_embed"], atol=1e-4):
            raise CheckpointError(f"{account.source}: its positions are learned, not sine-cosine")
    if source.grid == target.grid:
        return
    variant = RESIZES[target.pos_resize]
    state["pos_embed"] = resize_positions(state["pos_embed"], source.grid, target.grid, variant)
    old, new = ("×".join(map(str, grid)) for grid in (source.grid, target.grid))
    account.changed["pos_embed"] = f"grid {old} resized to {new} ({target.pos_resize})"


def adapt_channels(weight: Float[Tensor, "d c h w"], channels: int) -> Float[Tensor, "d c2 h w"]:
    """A patch projection for another number of bands.

    One band gets the sum (a grey picture repeated three times gives the same tokens); more bands repeat the old ones,
    scaled so that the expected output stays.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // old), 1, 1)[:, :channels]
    return repeated * (old / channels)


def resize_patches(weight: Float[Tensor, "d c h w"], patch: tuple[int, int]) -> Float[Tensor, "d c h2 w2"]:
    """A patch projection for another patch size.

    The least-squares solution under which resizing the picture changes its tokens least (FlexiViT, Beyer et al. 2023,
    section 3.4): ``(Bᵀ)⁺ w`` with ``B`` the matrix of the resize, here bicubic with antialiasing.
    """
    old = (weight.shape[2], weight.shape[3])
    units = torch.eye(old[0] * old[1], dtype=torch.float64).view(-1, 1, *old)
    resized = F.interpolate(units, patch, mode="bicubic", align_corners=False, antialias=True).flatten(1)
    # ``resized`` is Bᵀ: its rows are the resized unit pictures. It has not full rank where one side grows and the other
    # shrinks, so that singular values which are zero but for rounding must be cut off.
    solution = torch.linalg.pinv(resized, rtol=1e-6)
    return (weight.flatten(2).double() @ solution.T).unflatten(-1, patch).to(weight.dtype)
