"""Peers with random weights as oracles: perturbed so that no parameter can be forgotten, then compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

TOLERANCE = 1e-4


def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value, norms, biases, tokens and layer scales included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "token" not in name and "pos" not in name:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            elif "gamma" in name or "lambda" in name:
                parameter.copy_(0.3 + 0.1 * noise)
            else:
                parameter.add_(0.2 * noise)
    return model.eval()


def save(model: nn.Module, file: Path) -> Path:
    """A peer's state dict as a file; no folder of its own, so that only the names tell what it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


def pictures(*size: int, batch: int = 2) -> Tensor:
    """Noise pictures ``(B, 3, H, W)``."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(7))


def gradients(
    answer: Callable[[Tensor], Tensor], images: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and the gradients of a scalar of it for the picture and the named parameters."""
    images = images.clone().requires_grad_()
    out = answer(images)
    weights = torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)
    wanted = {"images": images, **parameters}
    found = torch.autograd.grad((out * weights).sum(), list(wanted.values()))
    return out.detach(), dict(zip(wanted, found, strict=True))


def assert_same(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    images: Tensor,
    our_parameters: Mapping[str, Tensor],
    their_parameters: Mapping[str, Tensor],
) -> None:
    """Answers differ by at most 1e-4, gradients by 1e-4 of their length."""
    out, grads = gradients(ours, images, our_parameters)
    expected, expected_grads = gradients(theirs, images, their_parameters)
    assert out.shape == expected.shape
    assert float(expected.abs().max()) > 0.1, "an oracle that answers nothing proves nothing"
    assert float((out - expected).abs().max()) <= TOLERANCE
    for name, grad in grads.items():
        expected_grad = expected_grads[name].reshape(grad.shape)
        difference = float((grad - expected_grad).norm() / expected_grad.norm())
        assert difference <= TOLERANCE, f"gradient of {name} differs by {difference} of its length"
