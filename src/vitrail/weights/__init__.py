"""Other people's checkpoints, the catalogue of published weights, and the one artefact."""

from vitrail.weights.account import Account
from vitrail.weights.artefact import Artefact, is_artefact, load_artefact
from vitrail.weights.catalogue import PRETRAINED, Pretrained, list_pretrained
from vitrail.weights.convert import convert
from vitrail.weights.files import CheckpointError
from vitrail.weights.finding import resolve
from vitrail.weights.load import (
    Loaded,
    create_model,
    load_checkpoint,
    load_pretrained,
    named_config,
    pretrained_preprocess,
)

__all__ = [
    "PRETRAINED",
    "Account",
    "Artefact",
    "CheckpointError",
    "Loaded",
    "Pretrained",
    "convert",
    "create_model",
    "is_artefact",
    "list_pretrained",
    "load_artefact",
    "load_checkpoint",
    "load_pretrained",
    "named_config",
    "pretrained_preprocess",
    "resolve",
]
