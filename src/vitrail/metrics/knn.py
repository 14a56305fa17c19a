"""Nearest-neighbour classification of frozen features: the probe that needs no training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError


def knn_probabilities(
    bank: Float[Tensor, "n d"],
    bank_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    num_classes: int,
    k: int = 10,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Float[Tensor, "q c"]:
    """Class probabilities from the ``k`` most similar pictures of a labelled bank.

    Votes are weighted by ``exp(cosine / temperature)`` (Wu et al. 2018; DINO, Caron et al. 2021, section 4.1).

    Args:
        bank: features of the labelled pictures.
        bank_labels: their classes.
        queries: features of the pictures to classify.
        num_classes: length of a row of the answer.
        k: neighbours, at most as many as the bank holds.
        temperature: the smaller, the more the nearest ones count.
        chunk: queries compared at once, which bounds memory.
    """
    if not 1 <= k <= len(bank):
        raise VitrailError(f"k must be between 1 and the {len(bank)} labelled pictures, not {k}")
    bank = F.normalize(bank.float(), dim=1)
    votes = []
    for part in F.normalize(queries.float(), dim=1).split(chunk):
        similarity, index = (part @ bank.T).topk(k, dim=1)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        vote = torch.zeros(len(part), num_classes, dtype=weight.dtype, device=weight.device)
        votes.append(vote.scatter_add_(1, bank_labels[index], weight))
    summed = torch.cat(votes)
    return summed / summed.sum(dim=1, keepdim=True)
