"""Transformers' naming of VideoMAE: pretraining, classifiers and bare encoders.

The files have ``q_bias`` and ``v_bias`` where the modules of Transformers 5 have ``query.bias`` and ``value.bias``.
Both are read, the files' are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import VideoConfig, VideoMAEConfig
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.hf import ACTIVATIONS, classes_of
from vitrail.weights.infer_video import ClipHints, infer_video, infer_videomae
from vitrail.weights.names import (
    Files,
    Format,
    Name,
    Translated,
    behind,
    blocks_in,
    both,
    expand,
    rename,
    translate,
)
from vitrail.weights.preprocessing import to_transformers

PREFIX = "videomae."
LAST_NORM_EPS = 1e-5
"""Transformers makes the classifier's norm and the decoder's last one with PyTorch's own epsilon."""
NORM_EPS = 1e-12


def _block(stem: str) -> list[Name]:
    attention, ours = f"{stem}.attention.attention", "blocks.{i}.attn.qkv"
    return [
        *both("blocks.{i}.norm1", f"{stem}.layernorm_before"),
        Name(f"{ours}.weight", tuple(f"{attention}.{part}.weight" for part in ("query", "key", "value"))),
        Name(f"{ours}.q_bias", (f"{attention}.q_bias",)),
        Name(f"{ours}.q_bias", (f"{attention}.query.bias",)),
        Name(f"{ours}.v_bias", (f"{attention}.v_bias",)),
        Name(f"{ours}.v_bias", (f"{attention}.value.bias",)),
        *both("blocks.{i}.attn.proj", f"{stem}.attention.output.dense"),
        *both("blocks.{i}.norm2", f"{stem}.layernorm_after"),
        *both("blocks.{i}.mlp.fc1", f"{stem}.intermediate.dense"),
        *both("blocks.{i}.mlp.fc2", f"{stem}.output.dense"),
    ]


ENCODER = [
    *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *_block("encoder.layer.{i}"),
    *both("norm", "layernorm"),
]
HEAD = [*both("fc_norm", "fc_norm"), *both("head", "classifier")]
DECODER = [
    Name("decoder.embed.weight", ("encoder_to_decoder.weight",)),
    Name("decoder.mask_token", ("mask_token",)),
    *behind(_block("decoder.decoder_layers.{i}"), "decoder.", ""),
    *both("decoder.norm", "decoder.norm"),
    *both("decoder.pred", "decoder.head"),
]


def recognises(names: frozenset[str]) -> bool:
    """A projection of patches and a layer's queries, but neither positions nor a class token."""
    bare = {name.removeprefix(PREFIX) for name in names}
    wanted = {"embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"}
    return wanted <= bare and not {"embeddings.position_embeddings", "embeddings.cls_token"} & bare


def read(raw: Raw) -> Translated:
    """A Transformers checkpoint of a VideoMAE in our words."""
    account = Account(str(raw.path), FORMAT.name)
    config, names = raw.config, raw.tensors.keys()
    declared = config.get("model_type", "videomae")
    if declared != "videomae":
        raise CheckpointError(f"{raw.path}: config.json says {declared!r}, but the tensors are those of 'videomae'")
    if config.get("hidden_act") not in ACTIVATIONS:
        raise CheckpointError(f"{raw.path}: the activation {config['hidden_act']!r} is not the exact GELU")
    if "classifier.weight" in names and "fc_norm.weight" not in names:
        raise CheckpointError(f"{raw.path}: its classifier reads the first tubelet instead of their mean")
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
    encoder = expand(ENCODER, blocks_in(names, r"(?:videomae\.)?encoder\.layer\.(\d+)\."))
    hints = ClipHints.of(config, NORM_EPS, LAST_NORM_EPS, account)
    if "encoder_to_decoder.weight" not in names:
        state = translate(raw.tensors, [*behind(encoder, "", prefix), *HEAD], {}, account)
        return Translated(infer_video(state, hints, account), state, account, classes_of(config))
    decoder = expand(DECODER, blocks_in(names, r"decoder\.decoder_layers\.(\d+)\."))
    state = translate(raw.tensors, [*behind(encoder, "encoder.", prefix), *decoder], {}, account)
    return Translated(infer_videomae(state, hints, account), state, account)


# ---------------------------------------------------------------------- writing


def video_for_transformers(
    config: VideoConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``VideoMAEForVideoClassification`` (with a classifier) or ``VideoMAEModel`` (without one).

    Raises:
        CheckpointError: an architecture that Transformers' VideoMAE does not have.
    """
    reasons = {
        "it has tokens besides its tubelets": config.class_token or config.registers > 0 or config.mask_token,
        "its branches are scaled": config.layer_scale is not None,
        f"its classifier reads {config.pool!r}": config.pool != "mean",
        "its norm stands before the pool but it has a classifier": bool(config.num_classes) and not config.pool_norm,
        "its norm stands behind the pool but it has no classifier": not config.num_classes and config.pool_norm,
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise CheckpointError(f"Transformers has no model of this architecture: {'; '.join(wrong)}")
    written = _config_json(config, "VideoMAEForVideoClassification" if config.num_classes else "VideoMAEModel")
    written["use_mean_pooling"] = config.pool_norm
    if config.num_classes:
        _note_eps(config.pool_norm_eps, "fc_norm", account)
        names = classes or tuple(f"LABEL_{i}" for i in range(config.num_classes))
        written["id2label"] = {str(i): name for i, name in enumerate(names)}
        written["label2id"] = {name: i for i, name in enumerate(names)}
    rows = behind(expand(ENCODER, config.depth), "", PREFIX if config.num_classes else "")
    return rename(state, [*rows, *HEAD]), {"config.json": written, "preprocessor_config.json": _clips(preprocess)}


def videomae_for_transformers(
    config: VideoMAEConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``VideoMAEForPreTraining.from_pretrained``.

    Raises:
        CheckpointError: patches that are not square.
    """
    _note_eps(config.decoder_norm_eps, "decoder.norm", account)
    written = _config_json(config, "VideoMAEForPreTraining") | {
        "use_mean_pooling": False,
        "decoder_hidden_size": config.decoder_embed_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_num_heads,
        "decoder_intermediate_size": int(config.decoder_embed_dim * config.decoder_mlp_ratio),
    }
    rows = [*behind(expand(ENCODER, config.depth), "encoder.", PREFIX), *expand(DECODER, config.decoder_depth)]
    return rename(state, rows), {"config.json": written, "preprocessor_config.json": _clips(preprocess)}


def _note_eps(eps: float, norm: str, account: Account) -> None:
    if eps != LAST_NORM_EPS:
        account.notes.append(
            f"the epsilon of {norm} is {eps:g}, but always {LAST_NORM_EPS:g} in Transformers: the last digits differ"
        )


def _config_json(config: VideoConfig | VideoMAEConfig, architecture: str) -> dict[str, Any]:
    size, patch = as_pair(config.img_size), as_pair(config.patch_size)
    if patch[0] != patch[1]:
        raise CheckpointError("Transformers has no VideoMAE of patches that are not square")
    return {
        "architectures": [architecture],
        "model_type": "videomae",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": patch[0],
        "num_channels": config.in_channels,
        "num_frames": config.frames,
        "tubelet_size": config.tubelet_frames,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "qv_bias": True,
        "dtype": "float32",
    }


def _clips(preprocess: Preprocess) -> dict[str, Any]:
    """The preprocessing of pictures, for the processor that takes lists of frames."""
    return to_transformers(preprocess) | {"image_processor_type": "VideoMAEImageProcessor"}


FORMAT = Format("Transformers (videomae)", recognises, read)
