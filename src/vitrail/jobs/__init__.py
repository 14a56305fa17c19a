"""The verbs as functions: each takes one config and gives a result."""

from vitrail.jobs.advise import Advice, AdviseConfig, advise
from vitrail.jobs.bench import BenchConfig, bench
from vitrail.jobs.convert import ConvertConfig, convert
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.evaluate import EvaluateConfig, EvaluateResult, evaluate
from vitrail.jobs.explain import ExplainConfig, Explanation, explain
from vitrail.jobs.export import ExportConfig, export
from vitrail.jobs.listing import ListConfig, listing
from vitrail.jobs.plan import PlanConfig, plan
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.pretrain import PretrainResult, pretrain
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig, ProbeResult, probe
from vitrail.jobs.quantise import QuantiseConfig, quantise
from vitrail.jobs.train import TrainResult, train
from vitrail.jobs.train_config import TrainConfig

__all__ = [
    "Advice",
    "AdviseConfig",
    "BenchConfig",
    "ConvertConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "EvaluateResult",
    "ExplainConfig",
    "Explanation",
    "ExportConfig",
    "ListConfig",
    "PlanConfig",
    "PredictConfig",
    "PretrainConfig",
    "PretrainResult",
    "ProbeConfig",
    "ProbeResult",
    "QuantiseConfig",
    "TrainConfig",
    "TrainResult",
    "advise",
    "bench",
    "convert",
    "embed",
    "evaluate",
    "explain",
    "export",
    "listing",
    "plan",
    "predict",
    "pretrain",
    "probe",
    "quantise",
    "train",
]
