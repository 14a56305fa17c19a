"""Noise in, noise out: the arithmetic of Gaussian diffusion, for whatever a network denoises.

It stands on the lowest floor because it knows tensors only: a sampler (``nn.sampling``) and a training method read the
same numbers from it, and neither needs the other. Step ``i`` is a place in a schedule, 0 the cleanest; the *timestep*
is what the network is told at that step, which differs once a schedule is respaced.

Sources: DDPM (Ho et al. 2020), DDIM (Song et al. 2021), improved DDPM (Nichol & Dhariwal 2021: learned variances, the
hybrid loss).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError

Values = Float[Tensor, "b *shape"]
Steps = Int[Tensor, " b"]
FixedVariance = Literal["small", "large"]
Spacing = Literal["linspace", "leading"]


class Prediction(NamedTuple):
    """What a network's output says of one step back, all of the shape of the noisy sample.

    Attributes:
        clean: the sample without noise, x₀.
        noise: the noise that would make the noisy sample of it, ε.
        mean, log_variance: of the normal distribution of the sample one step earlier, p(xₜ₋₁ | xₜ).
    """

    clean: Tensor
    noise: Tensor
    mean: Tensor
    log_variance: Tensor


class NoiseSchedule:
    """How much noise there is at every step.

    All numbers are kept in float64 on the CPU and taken to where the samples are, in float32 at least.

    Args:
        betas: variance of the noise that each step adds, ``(T,)``, each between 0 and 1.
        timesteps: what the network is told at each step, ``(T,)``; 0 … T-1 when None.

    Attributes:
        signal: ᾱ, the share of the variance that is still signal after each step.
        signal_before: the same before the step; 1 before the first.
        posterior_variance: of q(xₜ₋₁ | xₜ, x₀), equation 7 of DDPM; 0 at the first step.

    Raises:
        VitrailError: a variance outside (0, 1), or not one timestep for each.
    """

    def __init__(self, betas: Float[Tensor, " t"], timesteps: Int[Tensor, " t2"] | None = None) -> None:
        betas = betas.detach().double().cpu()
        if len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise VitrailError("a noise schedule needs at least one variance, each above 0 and below 1")
        if timesteps is not None and len(timesteps) != len(betas):
            raise VitrailError(f"{len(timesteps)} timesteps for {len(betas)} variances")
        self.betas = betas
        self.timesteps = torch.arange(len(betas)) if timesteps is None else timesteps.cpu()
        self.signal = torch.cumprod(1 - betas, dim=0)
        self.signal_before = torch.cat([torch.ones(1, dtype=torch.float64), self.signal[:-1]])
        self.posterior_variance = betas * (1 - self.signal_before) / (1 - self.signal)
        # The first posterior is a point, whose logarithm is minus infinity: it gets the next one's instead.
        second = self.posterior_variance[1:2] if len(betas) > 1 else betas[:1]
        self._low = torch.cat([second, self.posterior_variance[1:]]).log()
        self._high = torch.cat([second, betas[1:]]).log()

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, timesteps: Sequence[int]) -> NoiseSchedule:
        """A schedule of some of the steps only, which leaves the noise at each of them what it was.

        Args:
            timesteps: places in this schedule, rising.

        Raises:
            VitrailError: places that do not rise, or are not there.
        """
        places = torch.tensor(list(timesteps), dtype=torch.int64)
        if len(places) == 0 or places[0] < 0 or places[-1] >= len(self) or bool((places.diff() <= 0).any()):
            raise VitrailError(f"steps must rise from at least 0 to at most {len(self) - 1}, not {list(timesteps)[:8]}")
        signal = self.signal[places]
        before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
        return NoiseSchedule(1 - signal / before, self.timesteps[places])

    def spaced(self, count: int, spacing: Spacing = "linspace") -> NoiseSchedule:
        """A schedule of ``count`` steps spread over all of this one; see :func:`spread`."""
        return self if count == len(self) else self.respaced(spread(len(self), count, spacing))

    # ------------------------------------------------------------------ adding noise

    def add_noise(self, clean: Values, noise: Values, steps: Steps) -> Values:
        """A sample of q(xₜ | x₀), equation 4 of DDPM: √ᾱ · x₀ + √(1 - ᾱ) · ε.

        Args:
            clean: x₀.
            noise: ε, standard normal.
            steps: place in the schedule of every sample.
        """
        return (
            at_steps(self.signal.sqrt(), steps, clean) * clean
            + at_steps((1 - self.signal).sqrt(), steps, clean) * noise
        )

    def posterior(self, clean: Values, noisy: Values, steps: Steps) -> tuple[Values, Values]:
        """Mean and log-variance of q(xₜ₋₁ | xₜ, x₀), equations 6 and 7 of DDPM.

        The log-variance of the first step, which is minus infinity, is that of the second.
        """
        of_clean = self.betas * self.signal_before.sqrt() / (1 - self.signal)
        of_noisy = (1 - self.signal_before) * (1 - self.betas).sqrt() / (1 - self.signal)
        mean = at_steps(of_clean, steps, noisy) * clean + at_steps(of_noisy, steps, noisy) * noisy
        return mean, at_steps(self._low, steps, noisy).expand_as(mean)

    # ------------------------------------------------------------------ reading a network

    def clean_from_noise(self, noisy: Values, noise: Values, steps: Steps) -> Values:
        """x₀ from xₜ and ε: :meth:`add_noise` solved for it."""
        return (
            at_steps(self.signal.rsqrt(), steps, noisy) * noisy
            - at_steps((1 / self.signal - 1).sqrt(), steps, noisy) * noise
        )

    def noise_from_clean(self, noisy: Values, clean: Values, steps: Steps) -> Values:
        """ε from xₜ and x₀."""
        difference = at_steps(self.signal.rsqrt(), steps, noisy) * noisy - clean
        return difference / at_steps((1 / self.signal - 1).sqrt(), steps, noisy)

    def predict(
        self,
        output: Float[Tensor, "b c2 *shape"],
        noisy: Float[Tensor, "b c *shape"],
        steps: Steps,
        clip: float | None = None,
        fixed: FixedVariance = "large",
    ) -> Prediction:
        """What the output of a network that predicts noise says.

        Args:
            output: the noise ε (as many channels as ``noisy``), or the noise and behind it a number v per value, which
                places the log-variance between its bounds: (v + 1)/2 of the way from the posterior's to β's
                (improved DDPM, equation 15).
            noisy: xₜ.
            steps: place in the schedule of every sample.
            clip: bound on the clean sample's values, for pixels; None for latents.
            fixed: the variance where the network gives none: the posterior's (``"small"``) or β (``"large"``).

        Raises:
            VitrailError: a number of channels that is neither of the two.
        """
        channels = noisy.shape[1]
        if output.shape[1] not in (channels, 2 * channels):
            raise VitrailError(
                f"the network gives {output.shape[1]} channels for samples of {channels}: noise alone would be "
                f"{channels}, noise and variance {2 * channels}"
            )
        noise = output[:, :channels]
        clean = self.clean_from_noise(noisy, noise, steps)
        if clip is not None:
            clean = clean.clamp(-clip, clip)
            noise = self.noise_from_clean(noisy, clean, steps)
        mean, low = self.posterior(clean, noisy, steps)
        if output.shape[1] > channels:
            share = (output[:, channels:] + 1) / 2
            log_variance = share * at_steps(self.betas.log(), steps, noisy) + (1 - share) * low
        else:
            log_variance = low if fixed == "small" else at_steps(self._high, steps, noisy).expand_as(mean)
        return Prediction(clean, noise, mean, log_variance)


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
    """Variances that rise linearly (DDPM, section 4).

    Args:
        steps: how many.
        first: variance of the first step at 1,000 steps; with fewer all grow, so that as much noise is reached.
        last: variance of the last step at 1,000 steps.

    Raises:
        VitrailError: so few steps that the last would have to add more noise than there can be.
    """
    scale = 1000 / steps
    if scale * last >= 1:
        raise VitrailError(f"{steps} steps are too few for a linear schedule: take linear_schedule().spaced({steps})")
    return NoiseSchedule(torch.linspace(scale * first, scale * last, steps, dtype=torch.float64))


def spread(total: int, count: int, spacing: Spacing = "linspace") -> list[int]:
    """``count`` of ``total`` steps, from 0 on.

    Args:
        total: steps of the whole schedule.
        count: how many are wanted.
        spacing: ``"linspace"`` reaches from the first to the last and rounds between them (improved DDPM, section 4);
            ``"leading"`` has one whole stride (DDIM, appendix D).

    Raises:
        VitrailError: more steps than there are, fewer than two, or no whole stride that gives this count.
    """
    if not 2 <= count <= total:
        raise VitrailError(f"from 2 to {total} steps can be taken of a schedule of {total}, not {count}")
    if spacing == "linspace":
        return [round(i * (total - 1) / (count - 1)) for i in range(count)]
    strides = (range(0, total, stride) for stride in range(1, total))
    found = next((places for places in strides if len(places) == count), None)
    if found is None:
        raise VitrailError(f"no whole stride takes {count} of {total} steps: choose another count, or 'linspace'")
    return list(found)


# ---------------------------------------------------------------------- what a training loss is made of


class HybridTerms(NamedTuple):
    """The two parts of the hybrid loss, one number per sample.

    Attributes:
        simple: mean squared error of the noise (equation 14 of DDPM); it teaches the noise.
        bound: one term of the variational bound, in bits per value; it teaches the variance alone.
    """

    simple: Float[Tensor, " b"]
    bound: Float[Tensor, " b"]


def hybrid_terms(
    schedule: NoiseSchedule, output: Tensor, clean: Values, noise: Values, noisy: Values, steps: Steps
) -> HybridTerms:
    """What a network with learned variances is trained on (improved DDPM, equation 16): ``simple + λ · T · bound``.

    There λ is 0.001 and T is 1,000, so that the sum of both is the loss at uniformly drawn steps.

    Args:
        schedule: of the noise.
        output: the network's, noise and variance, ``(B, 2·C, …)``.
        clean: x₀.
        noise: ε.
        noisy: xₜ, what :meth:`NoiseSchedule.add_noise` made of them.
        steps: place in the schedule of every sample.
    """
    channels = clean.shape[1]
    simple = (output[:, :channels] - noise).square().flatten(1).mean(dim=1)
    held = torch.cat([output[:, :channels].detach(), output[:, channels:]], dim=1)
    return HybridTerms(simple, variational_bound(schedule, held, clean, noisy, steps))


def variational_bound(
    schedule: NoiseSchedule, output: Tensor, clean: Values, noisy: Values, steps: Steps
) -> Float[Tensor, " b"]:
    """One term of the bound on -log p(x₀) in bits per value: Lₜ₋₁ of DDPM's equation 5, and L₀ at the first step."""
    mean, log_variance = schedule.posterior(clean, noisy, steps)
    found = schedule.predict(output, noisy, steps)
    divergence = gaussian_kl(mean, log_variance, found.mean, found.log_variance).flatten(1).mean(dim=1)
    unlikely = -discrete_log_likelihood(clean, found.mean, 0.5 * found.log_variance).flatten(1).mean(dim=1)
    return torch.where(steps == 0, unlikely, divergence) / math.log(2)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence of a normal distribution from another, in nats, value by value."""
    spread_out = (log_variance - other_log_variance).exp()
    apart = (mean - other_mean).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance + spread_out + apart - 1)


def discrete_log_likelihood(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability, in nats, of 8-bit values scaled to -1 … 1 under a normal distribution (DDPM, equation 13)."""
    half_bin, tiny = 1 / 255, 1e-12
    up = torch.special.ndtr((values + half_bin - mean) * (-log_std).exp())
    down = torch.special.ndtr((values - half_bin - mean) * (-log_std).exp())
    mass = torch.where(values < -0.999, up, torch.where(values > 0.999, 1 - down, up - down))
    return mass.clamp(min=tiny).log()


def at_steps(values: Float[Tensor, " t"], steps: Steps, like: Tensor) -> Tensor:
    """The numbers of every sample's step, ready to be multiplied with ``like``."""
    # Narrowed before it moves: not every device has float64.
    narrow = values.to(torch.promote_types(like.dtype, torch.float32)).to(like.device)
    return narrow[steps].view(-1, *[1] * (like.ndim - 1))
