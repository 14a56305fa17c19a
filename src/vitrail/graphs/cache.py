"""Graphs that were made once: kept in the user's cache under all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from vitrail.contracts import VitrailError
from vitrail.durable import write_durably
from vitrail.graphs.check import differences, require_equal
from vitrail.graphs.facts import Facts
from vitrail.graphs.needs import need
from vitrail.graphs.runners import Runner
from vitrail.graphs.traced import Traceable
from vitrail.graphs.write import OPSET, write_graph
from vitrail.machine import user_cache

LAYOUT = 1
"""Raised when graphs are written otherwise than before."""


def cached_graph(
    model: Traceable, facts: Facts, weights: str, run: Callable[[Path], Runner], folder: Path | None = None
) -> Path:
    """The ONNX graph of a model, from the cache when it is there whole, else made, checked and kept.

    Args:
        model: in evaluation mode, in float32 on the CPU.
        facts: of it.
        weights: digest of its weights.
        run: loads a graph in float32, to check it.
        folder: of the cache; the user's when None.

    Raises:
        VitrailError: the graph cannot be made or is wrong, or the cache cannot be written.
    """
    need("onnxscript", "export", "a graph of a model")
    known = [weights, model.model.config, facts.to_json(), OPSET, LAYOUT, torch.__version__, version("onnxscript")]
    key = hashlib.sha256(json.dumps([str(one) for one in known]).encode()).hexdigest()[:24]
    file = (folder or _users_folder()) / f"{key}.onnx"
    seal = file.with_suffix(".sha256")
    if file.is_file() and seal.is_file() and seal.read_text(encoding="utf-8") == file_digest(file):
        return file

    def accept(made: Path) -> None:
        require_equal(differences(model, run(made), facts.preprocess), f"{facts.family} as a graph")

    # A graph without its seal is made again: the seal goes first and comes last.
    try:
        seal.unlink(missing_ok=True)
        write_graph(model, facts, "onnx", file, accept)
        digest = file_digest(file)
    except OSError as error:
        raise VitrailError(f"{file}: the cache of graphs cannot be written: {error}; set VITRAIL_CACHE") from error
    write_durably(seal, lambda path: path.write_text(digest, encoding="utf-8"))
    return file


def _users_folder() -> Path:
    try:
        return user_cache() / "graphs"
    except OSError as error:
        raise VitrailError(f"there is no place for graphs: {error}") from error


def file_digest(*files: Path) -> str:
    """The SHA-256 of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while part := stream.read(2**22):
                digest.update(part)
    return digest.hexdigest()
