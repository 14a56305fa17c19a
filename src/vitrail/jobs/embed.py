"""``vitrail embed``: one vector per picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import Positional

from vitrail.data import FileSource, list_pictures
from vitrail.heads.pool import POOLS
from vitrail.jobs.backend import POOLED, BackendSettings, open_graph
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Caller, Hardware, counted, make_ready
from vitrail.jobs.merging import with_merging
from vitrail.jobs.models import open_model, weights_digest
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.progress import say
from vitrail.jobs.tables import Row, Table, check_table_name, picture_name
from vitrail.models import Backbone

FeaturePool = Literal["class", "mean", "class_mean"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(BackendSettings):
    """A feature vector of every picture, into a CSV, JSONL or Parquet file. A killed job goes on where it was."""

    source: Positional[str]
    """A picture, a folder (searched through) or a glob."""
    pool: FeaturePool = "class"
    """Class token, mean of the patches, or both side by side."""
    model: str = "vit_small_patch14_dinov2"
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    out: Path | None = None
    """The file: .csv, .jsonl or .parquet. Left out: embeddings.parquet under runs/. Pictures go by their paths; what of
    one is not UTF-8 stands as \\udcff, for the byte FF."""


class FeatureVector:
    """Pictures to one vector each: features of the last layer, pooled."""

    def __init__(self, model: Backbone, pool: FeaturePool) -> None:
        self.model = model
        self.pool = POOLS[pool](0, 0, 0.0)

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """``(B, D)``, or ``(B, 2·D)`` for class token and mean."""
        return self.pool(self.model.leading(images, self.pool.reads))


def open_encoder(config: EmbedConfig) -> Caller:
    """The model that a config names, ready to encode pictures."""
    if config.backend != "torch":
        wanted = POOLED[config.pool]
        graph = open_graph(config, config.backend, wanted)
        return Caller(graph.giving(*wanted), graph.preprocess, graph.hardware, graph.key)
    artefact = with_merging(open_model(config.model, config.model_overrides(), online=config.online), config)
    backbone, hardware = make_ready(artefact.backbone, Hardware.of(config), config.batch_size)
    key = (weights_digest(artefact.model), hardware.form)
    return Caller(FeatureVector(backbone, config.pool), artefact.preprocess, hardware, key)


def try_out(encoder: Caller) -> None:
    """Ask for the vector of an empty picture, before files are written for those of others.

    Raises:
        VitrailError: the model has no such vector: no class token, say.
    """
    preprocess, hardware = encoder.preprocess, encoder.hardware
    empty = torch.zeros(1, preprocess.bands, *preprocess.size, device=hardware.device)
    with torch.inference_mode():
        hardware.rows(encoder.call, empty)


def embed(config: EmbedConfig) -> Table:
    """The embedding of every picture, in order: name and vector.

    The rows stay in the file that is written and are read from there: for millions of pictures, open it with pyarrow or
    pandas instead of going through them.
    """
    encoder = open_encoder(config)
    try_out(encoder)
    source = FileSource(list_pictures(config.source), encoder.preprocess.channels, config.source)
    out = config.out or own_folder("embed", config, "source", "model") / "embeddings.parquet"
    check_table_name(out)

    def work(part: range) -> list[Row] | None:
        outputs = encoder.part(source, part, config, "embed")
        if outputs is None:
            return None
        return [
            {"name": picture_name(name), "embedding": vector}
            for name, vector in zip(outputs.names, outputs.values.numpy(), strict=True)
        ]

    key = fingerprint(*encoder.key, encoder.preprocess, config.pool)
    names = [source.name(i) for i in range(len(source))]
    rows = run_in_parts(names, key, work, out)
    say(f"{counted(len(rows), len(names))}, {len(rows[0]['embedding']) if rows else 0} numbers each → {out}")
    return rows
