"""A folder with an 8-bit graph: ``config.json`` says what it is, ``graph.xml`` and ``graph.bin`` are OpenVINO's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.graphs.cache import file_digest
from vitrail.graphs.facts import Facts
from vitrail.graphs.write import save_openvino, scratch_beside, settle

CONFIG, GRAPH, FORMAT = "config.json", "graph.xml", "openvino-int8"


@dataclass(frozen=True)
class Quantised:
    """An 8-bit graph on the disk.

    Attributes:
        graph: the ``.xml``.
        facts: classes, preprocessing, outputs.
        digest: of the graph and its weights.
        report: how it compares with the model that it was made of.
    """

    graph: Path
    facts: Facts
    digest: str
    report: Mapping[str, Any]


def is_quantised(folder: str | Path) -> bool:
    """Whether a path is a folder that :func:`write_quantised` wrote."""
    return (Path(folder) / GRAPH).is_file() and _config(Path(folder)).get("format") == FORMAT


def write_quantised(graph: Any, facts: Facts, report: Mapping[str, Any], folder: Path) -> None:
    """An ``openvino.Model`` as a folder, whole or not at all.

    Args:
        graph: in 8 bits.
        facts: of it.
        report: how it compares, for the folder's reader.
        folder: must not exist, or be empty.

    Raises:
        VitrailError: it holds files, or cannot be written.
    """
    require_free(folder)
    with scratch_beside(folder) as scratch:
        made = scratch / "made"
        made.mkdir()
        save_openvino(graph, facts, made / GRAPH)
        digest = file_digest(made / GRAPH, made / "graph.bin")
        values = {
            "vitrail": version("vitrail"),
            "format": FORMAT,
            "digest": digest,
            **facts.to_dict(),
            "report": report,
        }
        (made / CONFIG).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for part in made.iterdir():
            settle(part, part)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)


def require_free(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        VitrailError: naming it.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise VitrailError(f"{folder}: exists and is not empty; give another --out")


def read_quantised(folder: str | Path) -> Quantised:
    """What such a folder holds, checked.

    Raises:
        VitrailError: it is damaged, or its files do not belong together.
    """
    folder = Path(folder)
    values = _config(folder)
    facts = Facts.from_dict(values, str(folder / CONFIG))
    graph = folder / GRAPH
    try:
        digest = file_digest(graph, graph.with_suffix(".bin"))
    except OSError as error:
        raise VitrailError(f"{folder}: the 8-bit graph cannot be read: {error}") from error
    if digest != values.get("digest"):
        raise VitrailError(f"{folder}: the graph is not the one that {CONFIG} tells of: damaged, or exchanged")
    return Quantised(graph, facts, digest, values.get("report", {}))


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise VitrailError(f"{file}: cannot be read as JSON: {error}") from error
    return values if isinstance(values, dict) else {}
