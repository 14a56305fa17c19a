"""The tokenizer's objective against the paper's equations in float64; it learns, and no code stands for everything."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Categorical, Laplace, SigmoidTransform, TransformedDistribution, kl_divergence

from tests.methods.digits import PREPROCESS, Cut, columns, digits, digits_loader, train
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.data import TrainTransform
from vitrail.engine import Interrupted
from vitrail.methods.tokenizer import Tokenizer, TokenizerOptions, divergence_from_uniform, logit_laplace, perplexity
from vitrail.models import DiscreteVAE, DVAEConfig

TINY = DVAEConfig(img_size=8, in_channels=1, vocab_size=16, stride=2, width=16, blocks=1, code_dim=8)
SHORT = TokenizerOptions(
    temperature=2.0, last_temperature=0.25, temperature_share=0.9, kl_weight=0.3, kl_share=0.0, least_scale=0.5
)
# With everything still on its way in the first half of a run.
ON_THE_WAY = TokenizerOptions(temperature_share=0.5, kl_weight=0.2, kl_share=0.5, least_scale=0.2)


def tokenizer(options: TokenizerOptions = SHORT, seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    return Tokenizer(DiscreteVAE(TINY), options, PREPROCESS.mean, PREPROCESS.std)


def some_digits(count: int = 4) -> Batch:
    images = digits()[0][:count]
    return Batch(images, None, torch.arange(count), tuple(map(str, range(count))))


def at(share: float) -> Progress:
    return Progress(round(share * 1_000_000), 1_000_000, 0, 1)


def test_density_of_pixels_is_that_of_a_sigmoid_of_a_laplace_variable() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, location, log_scale = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    pixels = pixels.sigmoid()
    expected = TransformedDistribution(Laplace(location, log_scale.exp() + 0.3), [SigmoidTransform()])
    found = logit_laplace(pixels, location, log_scale, 0.3)
    torch.testing.assert_close(found, -expected.log_prob(0.1 + 0.8 * pixels))


def test_divergence_is_that_from_the_uniform_distribution() -> None:
    logits = 3 * torch.randn(2, 7, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(
        Categorical(logits=logits.movedim(1, -1)), Categorical(logits=torch.zeros(7, dtype=torch.float64))
    )
    torch.testing.assert_close(divergence_from_uniform(logits), expected)
    assert divergence_from_uniform(torch.zeros(1, 7, 1, 1)).item() == pytest.approx(0.0, abs=1e-6)


def test_perplexity_counts_codes() -> None:
    assert perplexity(torch.zeros(5, 3, dtype=torch.int64), 16).item() == pytest.approx(1.0)
    assert perplexity(torch.arange(8).repeat(4), 16).item() == pytest.approx(8.0)


def plain_loss(method: Tokenizer, images: Tensor, noise: Tensor, temperature: float, weight: float) -> Tensor:
    """The bound of a batch in plain words, with the Gumbel noise that was drawn."""
    logits = method.model.encoder(images)
    weights = torch.exp((logits + noise) / temperature)
    weights = weights / weights.sum(1, keepdim=True)
    location, log_scale = method.model.decoder(weights)[:, :1], method.model.decoder(weights)[:, 1:]
    scale = log_scale.exp() + method.options.least_scale
    x = 0.1 + 0.8 * (images * PREPROCESS.std[0] + PREPROCESS.mean[0])
    density = 1 / (2 * scale * x * (1 - x)) * torch.exp(-(torch.log(x / (1 - x)) - location).abs() / scale)
    q = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    kl = (q * torch.log(q * 16)).sum() / len(images)
    return -torch.log(density).mean() + weight * kl / (8 * 8)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_one_step_agrees_with_the_equations_in_float64(share: float) -> None:
    """Loss and gradient, with the divergence summed over a picture's codes and divided by its pixels."""
    method = tokenizer(ON_THE_WAY)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch, progress = some_digits(), at(share)
    torch.manual_seed(5)
    noise = -torch.empty(4, 16, 4, 4).exponential_().log()
    torch.manual_seed(5)
    losses = method(batch, progress)
    losses["loss"].backward()
    found = {name: p.grad for name, p in method.named_parameters()}
    method.zero_grad(set_to_none=True)
    method.double()
    bend = 0.5 * (1 + math.cos(math.pi * min(1.0, share / 0.5)))
    temperature, weight = 1 / 16 + (1 - 1 / 16) * bend, 0.2 * (1 - bend)
    expected = plain_loss(method, batch.images.double(), noise.double(), temperature, weight)
    expected.backward()
    torch.testing.assert_close(losses["loss"].double(), expected, atol=1e-4, rtol=1e-5)
    for name, parameter in method.named_parameters():
        gradient = found[name]
        assert gradient is not None and parameter.grad is not None and gradient.any(), name
        torch.testing.assert_close(gradient.double(), parameter.grad, atol=2e-4, rtol=2e-3)


def test_schedules_of_the_paper() -> None:
    method = tokenizer(TokenizerOptions())
    assert method.temperature(at(0)) == 1.0 and method.weight(at(0)) == 0.0
    assert method.temperature(at(0.025)) == pytest.approx((1 + 1 / 16) / 2)
    assert method.temperature(at(0.05)) == method.temperature(at(1)) == 1 / 16
    assert method.weight(at(0.5 * 5 / 3000)) == pytest.approx(3.3, rel=1e-2)
    assert method.weight(at(0.01)) == method.weight(at(1)) == 6.6


@pytest.mark.parametrize(
    "options",
    [{"last_temperature": 0.0}, {"temperature": 0.01}, {"temperature_share": 1.5}, {"kl_weight": -1.0}],
)
def test_impossible_numbers_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(VitrailError):
        TokenizerOptions(**options)


def test_it_learns_to_say_digits_in_many_codes(tmp_path: Path) -> None:
    method = tokenizer()
    images = digits()[0][:300]
    pixels = images * PREPROCESS.std[0] + PREPROCESS.mean[0]

    def error() -> float:
        with torch.no_grad():
            return float((method.model.picture_of(method.model.codes(images), (4, 4)) - pixels).abs().mean())

    fresh = error()
    done = train(tmp_path, method, digits_loader(TrainTransform(PREPROCESS, None)), epochs=8, lr=1e-2)
    table = columns(tmp_path)
    assert done.model is not method.model and isinstance(done.model, DiscreteVAE)
    assert table["reconstruction"][-1] < table["reconstruction"][0] - 0.4
    assert error() < 0.5 * fresh
    # Without the divergence's weight from the first step on, all is soon said in two codes.
    assert table["perplexity"][-1] > 6.0
    assert 0.1 < table["kl"][-1] < math.log(16)


def test_an_interrupted_run_ends_bit_equal(tmp_path: Path) -> None:
    loader = digits_loader(TrainTransform(PREPROCESS, None), 20)
    train(tmp_path / "whole", tokenizer(), Cut(loader, 3))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", tokenizer(), Cut(loader, 3, (1, 1)), checkpoint_every_steps=2)
    # Another beginning: everything that counts comes from the checkpoint.
    assert train(tmp_path / "cut", tokenizer(seed=7), Cut(loader, 3)).resumed
    whole, cut = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
