"""A checkpoint from one library's format to another's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file

from vitrail.contracts import VitrailError
from vitrail.weights.account import Account
from vitrail.weights.artefact import Artefact
from vitrail.weights.load import load_pretrained
from vitrail.weights.names import State
from vitrail.weights.texts import write_texts
from vitrail.weights.writers import WRITERS

Target = Literal["timm", "transformers", "vitrail"]


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
        Artefact(loaded.model, loaded.classes, loaded.preprocess, files=loaded.files).save_pretrained(target)
        return loaded.account
    model = loaded.model
    writer = WRITERS[to].get(type(model.config))
    if writer is None:
        raise VitrailError(f"{source}: a {type(model).__name__} is not written for {to}, which has no such model")
    tensors, beside = writer(model.config, model.state_dict(), loaded.account, loaded.classes, loaded.preprocess)
    _write(target, tensors, beside, loaded.files)
    return loaded.account


def _write(target: Path, tensors: State, beside: Mapping[str, dict[str, Any]], files: Mapping[str, str]) -> None:
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
            write_texts(files, scratch)
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod(0o777 & ~mask)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise VitrailError(f"{target}: cannot be written: {error}") from error
