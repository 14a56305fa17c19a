"""One checkpoint, one file: written so that a crash at any moment leaves a good one, read so that a bad one shows.

``checkpoint.safetensors`` holds flat tensors; its header holds one JSON document (progress, fingerprint, checksum).
The one before it stays as ``checkpoint.previous.safetensors``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.durable import write_durably

from .files import CHECKPOINT, DAMAGED, PREVIOUS

_HEADER = "vitrail.engine"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds.

    Attributes:
        tensors: flat, on the CPU, by name.
        metadata: the JSON document stored with them.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class _Damaged(Exception):
    """The file is not what was written: cut off, altered, or never a checkpoint."""


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write ``checkpoint.safetensors``, keeping the one before it as ``checkpoint.previous.safetensors``.

    Args:
        folder: where; it must exist.
        tensors: contiguous CPU tensors, no two sharing memory.
        metadata: anything JSON can hold.

    Returns:
        The path of the new checkpoint.

    Raises:
        VitrailError: a tensor holds NaN, or the file cannot be written (disk full, read-only). The earlier
            checkpoints are then untouched.
    """
    if bad := _with_nan(tensors):
        raise VitrailError(f"not saved: NaN in {', '.join(bad)}. The earlier checkpoint in {folder} is kept")
    document = json.dumps({"format": _FORMAT, **metadata}, sort_keys=True)
    header = {_HEADER: document, "checksum": _checksum(tensors, document)}
    current, previous = folder / CHECKPOINT, folder / PREVIOUS

    def keep_previous() -> None:
        if current.exists():
            current.replace(previous)

    write_durably(current, lambda path: save_file(dict(tensors), path, header), keep_previous)
    return current


def read_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest good checkpoint of ``folder``, or None when there is none at all; nothing there is changed.

    For a folder that may be another run's. A damaged ``checkpoint.safetensors`` is passed over with a warning.

    Raises:
        VitrailError: as :func:`load_checkpoint`.
    """
    found, fault = _newest(folder)
    if fault is not None:
        warn(f"damaged checkpoint passed over ({fault}); taking {folder / PREVIOUS}")
    return found


def load_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest good checkpoint of ``folder``, or None when there is none at all, to go on from it there.

    A damaged ``checkpoint.safetensors`` is set aside as ``checkpoint.damaged.safetensors`` (so that the next save does
    not push the good one out) and the previous one is taken, with a warning. A file that cannot be read here and now
    (memory, rights, the disk's own faults) is not taken for a damaged one: it may well be whole.

    Raises:
        VitrailError: there are checkpoints but all are damaged, one cannot be read now, or they come from a newer
            format.
    """
    found, fault = _newest(folder)
    if fault is not None:
        try:
            (folder / CHECKPOINT).replace(folder / DAMAGED)
        except OSError as error:
            raise VitrailError(
                f"the damaged checkpoint ({fault}) cannot be renamed to {DAMAGED} ({error}): make the folder writable"
            ) from error
        warn(f"damaged checkpoint set aside as {DAMAGED} ({fault}); going on from {folder / PREVIOUS}")
    return found


def _newest(folder: Path) -> tuple[Checkpoint | None, str | None]:
    """The newest good checkpoint, and what is wrong with the one before which it comes."""
    faults: list[str] = []
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        try:
            found = _read(path)
        except FileNotFoundError:
            continue
        except _Damaged as fault:
            faults.append(f"{path}: {fault}")
            continue
        return found, faults[0] if faults else None
    if faults:
        raise VitrailError(
            "no checkpoint can be used: " + "; ".join(faults) + ". Restore one from a backup, or move these files "
            f"away from {folder} (or choose another output folder) to start from the beginning"
        )
    return None, None


def _read(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        FileNotFoundError: there is none.
        _Damaged: the file's bytes prove it.
        VitrailError: the file cannot be read now, or has a newer format.
    """
    try:
        header, tensors = _content(path)
    except FileNotFoundError:
        raise
    # Of what was read, the library says SafetensorError; torch says RuntimeError where it gets no memory for it.
    except (OSError, MemoryError, RuntimeError) as error:
        raise VitrailError(
            f"{path} cannot be read now ({error}). It may well be whole, so it was left as it is: see to memory, "
            "rights and the disk, then run the same command again"
        ) from error
    if _HEADER not in header or "checksum" not in header:
        raise _Damaged("not a checkpoint of this engine (its header lacks the progress or the checksum)")
    document = header[_HEADER]
    if _checksum(tensors, document) != header["checksum"]:
        raise _Damaged("its checksum does not match its content (bits have changed since it was written)")
    if bad := _with_nan(tensors):
        raise _Damaged(f"NaN in {', '.join(bad)}")
    metadata = json.loads(document)
    if metadata["format"] != _FORMAT:
        raise VitrailError(f"{path} has format {metadata['format']}, this version reads {_FORMAT}: upgrade vitrail")
    return Checkpoint(tensors, metadata)


def _content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors, as far as the file is one of safetensors."""
    # The library calls every file that it cannot open missing; this names the true reason.
    with path.open("rb") as file:
        file.read(1)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise _Damaged(f"not readable as safetensors ({error})") from error


def _checksum(tensors: Mapping[str, Tensor], document: str) -> str:
    """CRC-32 over the document and every tensor's name, type, shape and bytes.

    It guards against accidents, not against forgery, and runs at several GB/s.
    """
    value = zlib.crc32(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _with_nan(tensors: Mapping[str, Tensor]) -> list[str]:
    # A sum is NaN if any part is (and may overflow to inf, or be inf - inf): one cheap pass, then a closer look.
    return [
        name
        for name, tensor in tensors.items()
        if torch.is_floating_point(tensor)
        and not bool(torch.isfinite(tensor.sum(dtype=torch.float64)))
        and bool(torch.isnan(tensor).any())
    ]
