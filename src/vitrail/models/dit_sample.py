"""Pictures' latents from a DiT: schedule, sampler and guidance put together with the authors' defaults.

The parts stand in ``vitrail.nn.diffusion`` and ``vitrail.nn.sampling``; turning latents into pixels is the business of
the autoencoder that they belong to.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.models.dit import DiffusionTransformer
from vitrail.nn.diffusion import NoiseSchedule, linear_schedule
from vitrail.nn.sampling import DDPM, Step, guide, sample

ANCESTRAL = DDPM()


@torch.no_grad()
def sample_latents(
    model: DiffusionTransformer,
    labels: Int[Tensor, " b"],
    *,
    schedule: NoiseSchedule | None = None,
    step: Step = ANCESTRAL,
    guidance: float = 4.0,
    guided_channels: int | None = 3,
    size: tuple[int, int] | None = None,
    start: Float[Tensor, "b c h w"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents of the classes asked for, ``(B, C, H, W)``, float32.

    Args:
        model: in evaluation mode.
        labels: a class number for every sample; the number of classes itself for "no label".
        schedule: 250 evenly spread steps of the linear schedule of 1,000 when None (DiT, section 4). For DDIM the
            usual one is ``linear_schedule().spaced(50, "leading")``.
        step: :class:`~vitrail.nn.sampling.DDPM` as it stands, or :class:`~vitrail.nn.sampling.DDIM`.
        guidance: scale of classifier-free guidance; 1 for none. The paper's samples have 4, its best FID 1.5.
        guided_channels: the first three, as in the authors' code and in the paper's figures; None for all of them.
        size: ``(height, width)`` of the latents; the model's own when None.
        start: standard normal noise; drawn when None.
        generator: of all noise; on its own device.

    Raises:
        VitrailError: a model in training mode, a label that there is not, or a size that patches do not divide.
    """
    if model.training:
        raise VitrailError("the model is in training mode, in which it loses labels: call model.eval() first")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= model.num_classes:
        raise VitrailError(f"labels must lie between 0 and {model.num_classes} (no label), not {labels.tolist()[:8]}")
    weight = model.patch_embed.proj.weight
    if start is None:
        shape = (len(labels), model.in_channels, *(size or model.img_size))
        device = weight.device if generator is None else generator.device
        start = torch.randn(shape, generator=generator, device=device)

    def call(noisy: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
        return model(noisy.to(weight.dtype), timesteps, classes).float()

    denoise = guide(call, labels.to(weight.device), model.num_classes, guidance, guided_channels)
    schedule = schedule or linear_schedule().spaced(250)
    return sample(denoise, schedule, start.to(weight.device, torch.float32), step, generator)
