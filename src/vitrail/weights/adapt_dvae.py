"""Weights of discrete autoencoders: for another size of pictures, which convolutions do not mind."""

from __future__ import annotations

from vitrail.models import DVAEConfig
from vitrail.weights.account import Account
from vitrail.weights.adapt import Adaptation
from vitrail.weights.names import State


def _fit(state: State, source: DVAEConfig, target: DVAEConfig, account: Account) -> None:
    """Nothing is stored of the grid."""


ADAPTATION = Adaptation(from_the_file=frozenset(), adaptable=frozenset({"img_size"}), fit=_fit)
