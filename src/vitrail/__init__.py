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
    from vitrail.explanations import record
    from vitrail.jobs.advise import AdviseConfig, advise
    from vitrail.jobs.bench import BenchConfig, bench
    from vitrail.jobs.convert import ConvertConfig, convert
    from vitrail.jobs.embed import EmbedConfig, embed
    from vitrail.jobs.evaluate import EvaluateConfig, evaluate
    from vitrail.jobs.explain import ExplainConfig, explain
    from vitrail.jobs.export import ExportConfig, export
    from vitrail.jobs.plan import PlanConfig, plan
    from vitrail.jobs.predict import predict
    from vitrail.jobs.predict_config import PredictConfig
    from vitrail.jobs.pretrain import pretrain
    from vitrail.jobs.pretrain_config import PretrainConfig
    from vitrail.jobs.probe import ProbeConfig, probe
    from vitrail.jobs.quantise import QuantiseConfig, quantise
    from vitrail.jobs.train import train
    from vitrail.jobs.train_config import TrainConfig
    from vitrail.models import Backbone, VisionTransformer, ViTConfig, list_models
    from vitrail.nn import Tokens
    from vitrail.web.explore import ExploreConfig, explore
    from vitrail.weights import Artefact, create_model

_HOMES = {
    "VitrailError": "contracts",
    "Preprocess": "data",
    "record": "explanations",
    "AdviseConfig": "jobs.advise",
    "BenchConfig": "jobs.bench",
    "ConvertConfig": "jobs.convert",
    "EmbedConfig": "jobs.embed",
    "EvaluateConfig": "jobs.evaluate",
    "ExplainConfig": "jobs.explain",
    "ExportConfig": "jobs.export",
    "PlanConfig": "jobs.plan",
    "PredictConfig": "jobs.predict_config",
    "PretrainConfig": "jobs.pretrain_config",
    "ProbeConfig": "jobs.probe",
    "QuantiseConfig": "jobs.quantise",
    "TrainConfig": "jobs.train_config",
    "advise": "jobs.advise",
    "bench": "jobs.bench",
    "convert": "jobs.convert",
    "embed": "jobs.embed",
    "evaluate": "jobs.evaluate",
    "explain": "jobs.explain",
    "export": "jobs.export",
    "plan": "jobs.plan",
    "predict": "jobs.predict",
    "pretrain": "jobs.pretrain",
    "probe": "jobs.probe",
    "quantise": "jobs.quantise",
    "train": "jobs.train",
    "Backbone": "models",
    "VisionTransformer": "models",
    "ViTConfig": "models",
    "list_models": "models",
    "Tokens": "nn",
    "ExploreConfig": "web.explore",
    "explore": "web.explore",
    "Artefact": "weights",
    "create_model": "weights",
}

__all__ = [
    "AdviseConfig",
    "Artefact",
    "Backbone",
    "BenchConfig",
    "ConvertConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExploreConfig",
    "ExportConfig",
    "PlanConfig",
    "PredictConfig",
    "Preprocess",
    "PretrainConfig",
    "ProbeConfig",
    "QuantiseConfig",
    "Tokens",
    "TrainConfig",
    "ViTConfig",
    "VisionTransformer",
    "VitrailError",
    "advise",
    "bench",
    "convert",
    "create_model",
    "embed",
    "evaluate",
    "explain",
    "explore",
    "export",
    "list_models",
    "plan",
    "predict",
    "pretrain",
    "probe",
    "quantise",
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
