"""How far the weights of the convolutional families stretch: other bands, classes and sizes, frozen norms."""

from __future__ import annotations

from vitrail.models import ResNetConfig
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, fit_simple
from vitrail.weights.names import State

HEAD = ("head.weight", "head.bias")
FREE = TRAINING | {"num_classes", "in_channels", "img_size"}

_fit_bands_and_head = fit_simple("stages.conv1.weight", HEAD)


def fit_resnet(state: State, source: ResNetConfig, target: ResNetConfig, account: Account) -> None:
    """Bands, head and norms of ``state`` for ``target``."""
    _fit_bands_and_head(state, source, target, account)
    if target.norm == "frozen":
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            account.drop(name, "frozen norms do not count batches")
            account.missing.pop(name, None)
            del state[name]


RESNET = Adaptation(frozenset({"num_classes", "stem"}), FREE | {"norm"}, fit_resnet)
CONVNEXT = Adaptation(
    frozenset({"num_classes", "norm_eps"}),
    FREE | {"layer_scale", "norm_eps"},
    fit_simple("stages.features.0.0.weight", HEAD),
)
