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
    from vitrail.jobs.bench import BenchConfig, bench
    from vitrail.jobs.convert import ConvertConfig, convert
    from vitrail.jobs.embed import EmbedConfig, embed
    from vitrail.jobs.evaluate import EvaluateConfig, evaluate
    from vitrail.jobs.explain import ExplainConfig, explain
    from vitrail.jobs.plan import PlanConfig, plan
    from vitrail.jobs.predict import predict
    from vitrail.jobs.predict_config import PredictConfig
    from vitrail.jobs.pretrain import pretrain
    from vitrail.jobs.pretrain_config import PretrainConfig
    from vitrail.jobs.probe import ProbeConfig, probe
    from vitrail.jobs.train import train
    from vitrail.jobs.train_config import TrainConfig
    from vitrail.models import Backbone, VisionTransformer, ViTConfig, list_models
    from vitrail.nn import Tokens
    from vitrail.weights import Artefact, create_model

_HOMES = {
    "VitrailError": "contracts",
    "Preprocess": "data",
    "record": "explain",
    "BenchConfig": "jobs.bench",
    "ConvertConfig": "jobs.convert",
    "EmbedConfig": "jobs.embed",
    "EvaluateConfig": "jobs.evaluate",
    "ExplainConfig": "jobs.explain",
    "PlanConfig": "jobs.plan",
    "PredictConfig": "jobs.predict_config",
    "PretrainConfig": "jobs.pretrain_config",
    "ProbeConfig": "jobs.probe",
    "TrainConfig": "jobs.train_config",
    "bench": "jobs.bench",
    "convert": "jobs.convert",
    "embed": "jobs.embed",
    "evaluate": "jobs.evaluate",
    "explain": "jobs.explain",
    "plan": "jobs.plan",
    "predict": "jobs.predict",
    "pretrain": "jobs.pretrain",
    "probe": "jobs.probe",
    "train": "jobs.train",
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
