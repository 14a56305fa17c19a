"""Visual tokens: a discrete autoencoder that learns to say a picture in codes of a fixed vocabulary.

Source: Zero-Shot Text-to-Image Generation (DALL·E, Ramesh et al. 2021), stage one. BEiT's tokens are made by such a
model (Bao et al. 2022, section 2.1).

| section of the paper | here |
|---|---|
| 2 (equation 1): the evidence lower bound with a weight on the divergence | :meth:`Tokenizer.forward` |
| 2.1: the Gumbel-softmax in place of a draw of one code | ``gumbel_softmax`` in :meth:`Tokenizer.forward` |
| 2.1: the prior is uniform over the codes | :func:`divergence_from_uniform` |
| A.2: the temperature falls to 1/16 | :meth:`Tokenizer.temperature` |
| A.2: the divergence's weight rises to 6.6 | :meth:`Tokenizer.weight` |
| A.3: the logit-Laplace distribution of pixels | :func:`logit_laplace` |
| A.2: residual convolutions, max-pooling, nearest neighbours | :class:`vitrail.models.DiscreteVAE` |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.models.dvae import MARGIN, DiscreteVAE, logits_of_pixels, pixels_of_logits


@dataclass(frozen=True)
class TokenizerOptions:
    """The numbers of the paper, with lengths as shares of a run: the paper's is of 3,000,000 steps.

    Attributes:
        temperature: of the Gumbel-softmax at the start.
        last_temperature: where the temperature's cosine ends; the nearer to 0, the more a code is like one.
        temperature_share: share of the run after which it has ended (150,000 steps).
        kl_weight: what the divergence from the uniform prior counts in the end; 1 is the evidence lower bound itself.
        kl_share: share of the run over which this weight rises from 0 (5,000 steps).
        least_scale: added to the Laplace distribution's scale, in logits. The paper has none; but where a background
            is constant the best scale is 0, the likelihood has no bound, and the picture itself would no longer count.
    """

    temperature: float = 1.0
    last_temperature: float = 1.0 / 16.0
    temperature_share: float = 0.05
    kl_weight: float = 6.6
    kl_share: float = 5.0 / 3000.0
    least_scale: float = 0.02

    def __post_init__(self) -> None:
        if not 0.0 < self.last_temperature <= self.temperature:
            raise VitrailError(
                f"the temperature must fall and stay above 0, not go from {self.temperature} to {self.last_temperature}"
            )
        if not (0.0 <= self.temperature_share <= 1.0 and 0.0 <= self.kl_share <= 1.0):
            raise VitrailError(
                f"temperature_share and kl_share are shares of a run, 0 to 1, not {self.temperature_share} and "
                f"{self.kl_share}"
            )
        if self.kl_weight < 0.0 or self.least_scale < 0.0:
            raise VitrailError(
                f"kl_weight and least_scale must not be negative, not {self.kl_weight} and {self.least_scale}"
            )


class Tokenizer(Method):
    """Trains a discrete autoencoder by the evidence lower bound.

    Args:
        model: the autoencoder.
        options: temperatures and weights.
        mean, std: of each band, with which the pictures were normalised: the pixels that are to be found again are
            those before it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: DiscreteVAE, options: TokenizerOptions, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The bound per pixel and band in nats (``loss``), its two parts, and what shows a collapse.

        ``reconstruction`` and ``kl`` (nats per code) are the parts, ``pixel_error`` is the mean absolute error of the
        relaxed reconstruction, 0 … 1. ``perplexity`` is how many codes, used equally often, the batch's likeliest codes
        come to; it is 1 when all pictures are said in one code, and cannot exceed the number of codes in the batch.
        """
        logits = self.model.logits(batch.images).float()
        weights = F.gumbel_softmax(logits, self.temperature(progress), dim=1)
        location, log_scale = (value.float() for value in self.model.decode(weights))
        pixels = (batch.images.float() * self.std + self.mean).clamp(0.0, 1.0)
        reconstruction = logit_laplace(pixels, location, log_scale, self.options.least_scale).mean()
        kl = divergence_from_uniform(logits).mean()
        # One code answers for this many pixels and bands: for 192 with DALL·E's.
        per_code = self.model.in_channels * self.model.config.stride**2
        return {
            "loss": reconstruction + self.weight(progress) / per_code * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "pixel_error": (pixels_of_logits(location.detach()) - pixels).abs().mean(),
            "perplexity": perplexity(logits.detach().argmax(dim=1), self.model.config.vocab_size),
        }

    def temperature(self, progress: Progress) -> float:
        """Of the Gumbel-softmax: half a cosine from the first to the last."""
        first, last = self.options.temperature, self.options.last_temperature
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * _part(progress, self.options.temperature_share)))

    def weight(self, progress: Progress) -> float:
        """Of the divergence: half a cosine from 0 up."""
        return self.options.kl_weight * 0.5 * (1.0 - math.cos(math.pi * _part(progress, self.options.kl_share)))

    def roles(self) -> dict[str, Role]:
        """The model's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """The autoencoder with its decoder, which shows what a code stands for."""
        return self.model


def _part(progress: Progress, share: float) -> float:
    """How much of the first ``share`` of a run is done, 0 … 1."""
    return min(1.0, progress.fraction / share) if share else 1.0


def logit_laplace(
    pixels: Float[Tensor, "*b"], location: Float[Tensor, "*b"], log_scale: Float[Tensor, "*b"], least: float = 0.0
) -> Float[Tensor, "*b"]:
    """Negative logarithm of the density of pixels 0 … 1 whose logits have a Laplace distribution, nats (equation 2).

    Args:
        pixels: they are moved away from 0 and 1 first.
        location: of the logits.
        log_scale: logarithm of the scale of the logits.
        least: added to the scale.
    """
    inner = MARGIN + (1.0 - 2.0 * MARGIN) * pixels
    scale = log_scale.exp() + least
    return (logits_of_pixels(pixels) - location).abs() / scale + (2.0 * scale * inner * (1.0 - inner)).log()


def divergence_from_uniform(logits: Float[Tensor, "b v h w"]) -> Float[Tensor, "b h w"]:
    """Kullback-Leibler divergence of the codes' distribution from the uniform one, nats: 0 … log(codes)."""
    log_probabilities = logits.log_softmax(dim=1)
    return (log_probabilities.exp() * log_probabilities).sum(dim=1) + math.log(logits.shape[1])


def perplexity(codes: Int[Tensor, ...], vocab_size: int) -> Float[Tensor, ""]:
    """Exponential of the entropy of how often each code occurs: 1 … ``vocab_size``."""
    shares = codes.flatten().bincount(minlength=vocab_size).float() / codes.numel()
    return torch.special.entr(shares).sum().exp()
