"""From noise to a sample, step by step: DDPM, DDIM and classifier-free guidance.

A sampler asks for a function that denoises and a :class:`~vitrail.nn.diffusion.NoiseSchedule`, and for nothing that
trains: it stands beside the schedule, so that inference needs no training method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.nn.diffusion import FixedVariance, NoiseSchedule, Steps, Values, at_steps

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""From noisy samples ``(B, C, …)`` and timesteps ``(B,)`` to their noise, or noise and variance ``(B, 2·C, …)``."""

LabelledDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The same with a class number ``(B,)`` for every sample."""

Step = Callable[[NoiseSchedule, Tensor, Tensor, Tensor, Tensor], Tensor]
"""One step back: schedule, the network's output, noisy samples, places in the schedule, fresh noise → samples."""


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling: a draw from p(xₜ₋₁ | xₜ) (Ho et al. 2020, algorithm 2).

    Attributes:
        clip: bound on the clean sample's values, for pixels.
        fixed: the variance where the network gives none.
    """

    clip: float | None = None
    fixed: FixedVariance = "large"

    def __call__(self, schedule: NoiseSchedule, output: Tensor, noisy: Values, steps: Steps, noise: Values) -> Values:
        """The samples one step earlier; the last step adds no noise."""
        found = schedule.predict(output, noisy, steps, self.clip, self.fixed)
        return found.mean + _unless_last(steps, (0.5 * found.log_variance).exp() * noise)


@dataclass(frozen=True)
class DDIM:
    """Implicit sampling (Song et al. 2021, equation 12).

    Attributes:
        eta: share of fresh noise: 0 for none, so that the start decides everything; 1 for as much as DDPM's small
            variance.
        clip: bound on the clean sample's values, for pixels.
    """

    eta: float = 0.0
    clip: float | None = None

    def __call__(self, schedule: NoiseSchedule, output: Tensor, noisy: Values, steps: Steps, noise: Values) -> Values:
        """The samples one step earlier. A learned variance is not used."""
        found = schedule.predict(output, noisy, steps, self.clip)
        before = at_steps(schedule.signal_before, steps, noisy)
        deviation = self.eta * at_steps(schedule.posterior_variance.sqrt(), steps, noisy)
        towards = (1 - before - deviation.square()).clamp(min=0).sqrt()
        return before.sqrt() * found.clean + towards * found.noise + _unless_last(steps, deviation * noise)


def _unless_last(steps: Steps, noise: Values) -> Values:
    return torch.where((steps > 0).view(-1, *[1] * (noise.ndim - 1)), noise, torch.zeros_like(noise))


def guide(
    model: LabelledDenoiser, labels: Int[Tensor, " b"], null: int, scale: float, channels: int | None = None
) -> Denoiser:
    """A denoiser that leans towards its labels: ``ε(∅) + scale · (ε(label) - ε(∅))`` (Ho & Salimans 2022).

    Both answers come from one pass over a doubled batch. What is not guided (a learned variance, channels left out)
    is the answer with the label.

    Args:
        model: called with samples, timesteps and labels.
        labels: of every sample.
        null: the class number that stands for no label.
        scale: 1 for the labels alone, without the second half of the batch; more for more typical samples.
        channels: how many channels of the noise are guided; None for all, as the paper has it. DiT's authors guide the
            first three of four, and their published figures are of that.
    """

    def denoise(noisy: Tensor, timesteps: Tensor) -> Tensor:
        if scale == 1.0:
            return model(noisy, timesteps, labels)
        both = torch.cat([labels, torch.full_like(labels, null)])
        labelled, free = model(noisy.repeat(2, *[1] * (noisy.ndim - 1)), timesteps.repeat(2), both).chunk(2)
        count = noisy.shape[1] if channels is None else channels
        guided = free[:, :count] + scale * (labelled[:, :count] - free[:, :count])
        return torch.cat([guided, labelled[:, count:]], dim=1)

    return denoise


def sample(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    start: Float[Tensor, "b c *shape"],
    step: Step,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c *shape"]:
    """Samples from noise, through every step of a schedule.

    Args:
        denoise: the network, guided or not.
        schedule: of the noise that it was trained with, respaced or not.
        start: standard normal noise.
        step: how one step back is taken: :class:`DDPM` or :class:`DDIM`.
        generator: of the fresh noise; on its own device.
    """
    device = start.device if generator is None else generator.device
    noisy = start
    for place in reversed(range(len(schedule))):
        steps = torch.full((len(start),), place, device=start.device)
        output = denoise(noisy, schedule.timesteps.to(start.device)[steps])
        noise = torch.randn(start.shape, generator=generator, device=device, dtype=start.dtype).to(start.device)
        noisy = step(schedule, output, noisy, steps, noise)
    return noisy
