"""Vitrail: vision transformers, the whole path in one package.

>>> import vitrail
>>> model = vitrail.create_model("vit_base_patch16_224", num_classes=10)
>>> vitrail.train(vitrail.TrainConfig(data="photos/", epochs=5))  # doctest: +SKIP

Names are imported when they are first used, so that ``import vitrail`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vitrail.contracts import VitrailError
    from vitrail.data import Preprocess
    from vitrail.explain import record
    from vitrail.jobs import (
        BenchConfig,
        ConvertConfig,
        EmbedConfig,
        EvaluateConfig,
        ExplainConfig,
        PlanConfig,
        PredictConfig,
        PretrainConfig,
        ProbeConfig,
        TrainConfig,
        bench,
        convert,
        embed,
        evaluate,
        explain,
        plan,
        predict,
        pretrain,
        probe,
        train,
    )
    from vitrail.models import Backbone, VisionTransformer, ViTConfig, list_models
    from vitrail.nn import Tokens
    from vitrail.weights import Artefact, create_model

_HOMES = {
    "VitrailError": "contracts",
    "Preprocess": "data",
    "record": "explain",
    "BenchConfig": "jobs",
    "ConvertConfig": "jobs",
    "EmbedConfig": "jobs",
    "EvaluateConfig": "jobs",
    "ExplainConfig": "jobs",
    "PlanConfig": "jobs",
    "PredictConfig": "jobs",
    "PretrainConfig": "jobs",
    "ProbeConfig": "jobs",
    "TrainConfig": "jobs",
    "bench": "jobs",
    "convert": "jobs",
    "embed": "jobs",
    "evaluate": "jobs",
    "explain": "jobs",
    "plan": "jobs",
    "predict": "jobs",
    "pretrain": "jobs",
    "probe": "jobs",
    "train": "jobs",
    "Backbone": "models",
    "VisionTransformer": "models",
    "ViTConfig": "models",
    "list_models": "models",
    "Tokens": "nn",
    "Artefact": "weights",
    "create_model": "weights",
}

__all__ = [
    "Artefact",
    "Backbone",
    "BenchConfig",
    "ConvertConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "PlanConfig",
    "PredictConfig",
    "Preprocess",
    "PretrainConfig",
    "ProbeConfig",
    "Tokens",
    "TrainConfig",
    "ViTConfig",
    "VisionTransformer",
    "VitrailError",
    "bench",
    "convert",
    "create_model",
    "embed",
    "evaluate",
    "explain",
    "list_models",
    "plan",
    "predict",
    "pretrain",
    "probe",
    "record",
    "train",
]


def __getattr__(name: str) -> Any:
    """A public name, from the room that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitrail' has no attribute {name!r}")
    return getattr(import_module(f"vitrail.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Every public name, for completion."""
    return [*__all__, "__version__"]
