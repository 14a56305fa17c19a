"""Reading tensors from files that nobody vouches for: no code is run, nothing is half-read, errors name the file.

``.safetensors`` (also sharded), ``.pth``/``.pt``/``.bin`` (``weights_only=True``, never otherwise), Google's ``.npz``
and folders that hold one of them.
"""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitrail.contracts import VitrailError


class CheckpointError(VitrailError):
    """A checkpoint that cannot be read, or is not what it says it is."""


@dataclass(frozen=True)
class Raw:
    """Tensors as they lie in a file, under the file's own names.

    Attributes:
        path: where they were read from.
        tensors: by name.
        wrappers: the outer keys and common prefixes that were taken off (``("teacher",)`` of a DINO checkpoint).
        config: the ``config.json`` beside the file, empty when there is none.
        preprocessor: the ``preprocessor_config.json`` beside it, empty when there is none.
    """

    path: Path
    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)

    def beside(self, name: str) -> dict[str, Any]:
        """The JSON object in another small file of the same folder, empty when there is none."""
        return read_json_object(self.path.parent / name)

    def texts(self, *names: str) -> dict[str, str]:
        """Those of the named text files that lie in the same folder, by name, as they are.

        Raises:
            CheckpointError: one that is no text.
        """
        found: dict[str, str] = {}
        for name in names:
            file = self.path.parent / name
            if not file.is_file():
                continue
            try:
                found[name] = file.read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{file}: cannot be read as text: {error}") from error
        return found


WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""What a folder is searched for, in this order."""


def read_raw(path: str | Path) -> Raw:
    """Every tensor of a file or folder, checked to be finite.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    given = Path(path)
    file = _weight_file(given)
    wrappers: tuple[str, ...] = ()
    if file.name.endswith(".index.json"):
        tensors = _read_shards(file)
    else:
        tensors, wrappers = _read_file(file)
    if not tensors:
        raise CheckpointError(f"{file}: there is not a single tensor in it")
    _require_finite(tensors, file)
    tensors, prefixes = _without_prefix(tensors)
    folder = file.parent
    return Raw(
        file,
        tensors,
        wrappers + prefixes,
        config=read_json_object(folder / "config.json"),
        preprocessor=read_json_object(folder / "preprocessor_config.json"),
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty when there is no such file; doubled keys are refused."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_doubles)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    doubled = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if doubled:
        raise ValueError(f"the key {doubled[0]!r} stands in it twice")
    return dict(pairs)


PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""What wrappers (DataParallel, torch.compile, Lightning) put before every name."""


def _without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    taken: list[str] = []
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        taken.append(prefix)
    return tensors, tuple(taken)


def _weight_file(path: Path) -> Path:
    if path.is_dir():
        for name in WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path}: a folder without weights: none of {', '.join(WEIGHT_FILES)} is in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    return path


def _read_file(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if file.suffix not in READERS:
        raise CheckpointError(f"{file}: unknown kind of file; known are {', '.join(READERS)} and folders of them")
    try:
        return READERS[file.suffix](file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


# ---------------------------------------------------------------------- safetensors


def check_safetensors_header(file: Path) -> dict[str, Any]:
    """The header of a ``.safetensors`` file, after making sure that it is one.

    Raises:
        CheckpointError: a pickle under this name, a truncated file, doubled names, tensors outside the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            # A sound header may begin with these bytes too: they count only when they give no possible length.
            if start[:2] == b"PK" or start[:1] == b"\x80":
                raise CheckpointError(
                    f"{file}: this is a pickle named .safetensors. Rename it to .pth: it is then read without running "
                    "any code of it, or refused"
                )
            raise CheckpointError(f"{file}: truncated, or no safetensors file: its header does not fit in {size} bytes")
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_no_doubles)
        places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        ends = [(name, int(begin), int(end)) for name, (begin, end) in places.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: the header is damaged: {error}") from error
    for name, begin, end in ends:
        if not 0 <= begin <= end <= size - 8 - length:
            raise CheckpointError(f"{file}: truncated or damaged: the tensor {name!r} lies outside the file")
    return header


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a checked ``.safetensors`` file."""
    check_safetensors_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            # Copied, because what the library hands out lies in the file's own pages.
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map in it")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        shard = index.parent / name
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names the shard {name!r} in another folder; shards lie beside their index")
        if not shard.is_file():
            raise CheckpointError(f"{shard}: this shard is missing; {index.name} names it")
        tensors |= _read_file(shard)[0]
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(f"{index}: promises {absent[0]!r}, but no shard has it")
    return tensors


# ---------------------------------------------------------------------- pickles, without the code

WRAPPERS = ("teacher", "model_ema", "ema", "model", "state_dict", "student", "module")
"""Keys under which training scripts put the weights; the first that is there is taken."""


def _refuse_torchscript(file: Path) -> None:
    """An archive of compiled code, such as OpenAI's CLIP comes as, is recognised by its table of constants."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        code = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if code:
        raise CheckpointError(
            f"{file}: a TorchScript archive: it holds code, which is never run here. Where you trust it, take its "
            "weights out once: torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')"
        )


def _read_pickle(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    _refuse_torchscript(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        named = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
        raise CheckpointError(
            f"{file}: refused: reading it would run arbitrary code, or it is no checkpoint at all "
            f"({(named or [reason])[0]}). Ask its author for .safetensors, or for a file of tensors only"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file}: truncated or damaged: {str(error).splitlines()[0]}") from error
    return _unwrap(content, file)


def _unwrap(content: object, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    wrappers: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if len(tensors) == len(content) and tensors:
            return {name: value.detach() for name, value in tensors.items()}, tuple(wrappers)
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            kinds = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(content.items())[:8])
            raise CheckpointError(f"{file}: no table of tensors in it; it holds {kinds or 'nothing'}")
        wrappers.append(inner)
        content = content[inner]
    raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a table of tensors by name")


# ---------------------------------------------------------------------- npz


def _read_npz(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: _from_numpy(archive[name]) for name in archive.files}, ()
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file}: damaged, or needs arbitrary code to read: {error}") from error


def _from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        # JAX saves bfloat16, which NumPy does not know: it comes back as two raw bytes.
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)


READERS: dict[str, Callable[[Path], tuple[dict[str, Tensor], tuple[str, ...]]]] = {
    ".safetensors": lambda file: (read_safetensors(file), ()),
    ".pth": _read_pickle,
    ".pt": _read_pickle,
    ".bin": _read_pickle,
    ".npz": _read_npz,
}


def _require_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{file}: {count} of {tensor.numel()} numbers of {name!r} are NaN or infinite: "
                "the checkpoint is broken (a run that diverged?); use an earlier one"
            )
