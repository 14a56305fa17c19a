"""A checkpoint from one library's format to another's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file

from vitrail.contracts import VitrailError
from vitrail.models import MODELS, ViTConfig
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.artefact import Artefact, config_of_model
from vitrail.weights.load import Loaded, load_pretrained
from vitrail.weights.names import State
from vitrail.weights.preprocessing import to_timm, to_transformers

Target = Literal["timm", "transformers", "vitrail"]
Files = tuple[State, dict[str, dict[str, Any]]]
"""Tensors, and the small JSON files beside them by name."""


def convert(source: str | Path, target: str | Path, to: Target, online: bool = False) -> Account:
    """Translate a checkpoint.

    Args:
        source: a file, a folder, or the name of published weights.
        target: what to write: a folder that the other library opens, or a ``.safetensors`` file of its weights alone
            (not for ``"vitrail"``). Must not exist.
        to: ``"timm"`` (``timm.create_model("local-dir:…")``, ``load_state_dict``), ``"transformers"``
            (``from_pretrained``) or ``"vitrail"`` (the artefact).
        online: allow downloading named weights.

    Returns:
        What became of every tensor.

    Raises:
        VitrailError: the source cannot be read, the target exists, or the other library has no such architecture.
    """
    target = Path(target)
    if target.exists():
        raise VitrailError(f"{target} exists: nothing is overwritten; choose another name or remove it")
    if target.suffix not in ("", ".safetensors"):
        raise VitrailError(f"{target}: weights are written as .safetensors or into a folder, not as {target.suffix}")
    loaded = load_pretrained(source, online=online)
    if to == "vitrail":
        if target.suffix:
            raise VitrailError(f"{target}: an artefact is a folder: leave {target.suffix} away")
        Artefact(loaded.model, loaded.classes, loaded.preprocess).save_pretrained(target)
        return loaded.account
    tensors, beside = WRITERS[to](loaded)
    _write(target, tensors, beside)
    return loaded.account


def _for_timm(loaded: Loaded) -> Files:
    config = config_of_model(loaded.model)
    tensors = timm.write(config, loaded.model.state_dict(), loaded.account)
    preprocess = to_timm(loaded.preprocess)
    return tensors, {"config.json": timm.config_json(config, _timm_name(config), loaded.classes, preprocess)}


def _for_transformers(loaded: Loaded) -> Files:
    config = config_of_model(loaded.model)
    tensors = hf.write(config, loaded.model.state_dict(), loaded.account)
    return tensors, {
        "config.json": hf.config_json(config, loaded.classes),
        "preprocessor_config.json": to_transformers(loaded.preprocess),
    }


WRITERS: dict[str, Callable[[Loaded], Files]] = {"timm": _for_timm, "transformers": _for_transformers}

STRUCTURE = ("patch_size", "embed_dim", "num_heads", "mlp", "distilled", "registers")
"""What an architecture's name fixes in timm; the rest are arguments."""


def _timm_name(config: ViTConfig) -> str | None:
    """The name under which timm has this architecture (at some depth); None when it has no name there."""
    for name, known in MODELS.items():
        same = all(getattr(known, field) == getattr(config, field) for field in STRUCTURE)
        scaled = (known.layer_scale is None) == (config.layer_scale is None)
        placed = known.registers > 0 or known.class_position == config.class_position
        plain = known.class_token == config.class_token and known.qkv_bias == config.qkv_bias
        if (
            same
            and scaled
            and placed
            and plain
            and not config.qk_norm
            and abs(known.mlp_ratio - config.mlp_ratio) < 1e-6
        ):
            return name
    return None


def _write(target: Path, tensors: State, beside: Mapping[str, dict[str, Any]]) -> None:
    """One file, or a folder with the small files too: whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            weights = scratch / "model.safetensors"
            save_file(tensors, weights, metadata={"format": "pt"})
            if target.suffix:
                weights.rename(target)
                return
            for name, content in beside.items():
                (scratch / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod(0o777 & ~mask)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise VitrailError(f"{target}: cannot be written: {error}") from error
