"""The noise schedule: diffusers' schedulers as the oracle for its numbers, algebra and statistics for the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.diffusion import (
    NoiseSchedule,
    discrete_log_likelihood,
    gaussian_kl,
    hybrid_terms,
    linear_schedule,
    spread,
    variational_bound,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_linear_schedule_is_diffusers() -> None:
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    theirs = schedulers.DDPMScheduler(1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    ours = linear_schedule()
    torch.testing.assert_close(ours.betas.float(), theirs.betas)
    torch.testing.assert_close(ours.signal.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    clean, fresh, steps = noise(3, 4, 2, 2), noise(3, 4, 2, 2, seed=1), torch.tensor([0, 500, 999])
    expected = theirs.add_noise(clean, fresh, steps)
    torch.testing.assert_close(ours.add_noise(clean, fresh, steps), expected, rtol=0, atol=1e-5)


def test_shorter_linear_schedules_reach_as_much_noise() -> None:
    assert float(linear_schedule(100).signal[-1]) == pytest.approx(float(linear_schedule().signal[-1]), abs=1e-4)


def test_a_linear_schedule_too_short_for_its_noise_is_refused() -> None:
    with pytest.raises(VitrailError, match="spaced"):
        linear_schedule(10)


@pytest.mark.parametrize("betas", [[], [0.1, 0.0], [1.0], [-0.1, 0.2]])
def test_impossible_variances_are_refused(betas: list[float]) -> None:
    with pytest.raises(VitrailError, match="above 0 and below 1"):
        NoiseSchedule(torch.tensor(betas))


def test_adding_noise_has_the_variance_it_says_and_can_be_solved() -> None:
    schedule = linear_schedule()
    steps = torch.tensor([20, 700])
    clean, fresh = torch.ones(2, 1, 200, 200), noise(2, 1, 200, 200)
    noisy = schedule.add_noise(clean, fresh, steps)
    for sample, step in zip(noisy, steps.tolist(), strict=True):
        assert float(sample.var()) == pytest.approx(1 - float(schedule.signal[step]), rel=0.03)
    torch.testing.assert_close(schedule.clean_from_noise(noisy, fresh, steps), clean, atol=1e-4, rtol=0)
    torch.testing.assert_close(schedule.noise_from_clean(noisy, clean, steps), fresh, atol=1e-4, rtol=0)


def test_the_posterior_is_bayes_rule() -> None:
    """q(xₜ₋₁ | xₜ, x₀) ∝ q(xₜ | xₜ₋₁) q(xₜ₋₁ | x₀): precisions add up, and so do weighted means."""
    schedule = linear_schedule(50)
    step, clean, noisy = 30, torch.tensor([[0.7]]), torch.tensor([[-1.2]])
    beta, before = float(schedule.betas[step]), float(schedule.signal_before[step])
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = (math.sqrt(1 - beta) / beta * -1.2 + math.sqrt(before) / (1 - before) * 0.7) / precision
    found, log_variance = schedule.posterior(clean, noisy, torch.tensor([step]))
    assert float(found) == pytest.approx(mean, rel=1e-5)
    assert float(log_variance.exp()) == pytest.approx(1 / precision, rel=1e-5)


def test_the_first_posterior_is_the_clean_sample() -> None:
    schedule = linear_schedule()
    clean, noisy = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    mean, log_variance = schedule.posterior(clean, noisy, torch.tensor([0]))
    torch.testing.assert_close(mean, clean)
    assert bool(log_variance.isfinite().all())


# ---------------------------------------------------------------------- respacing


def test_respacing_keeps_the_signal_and_remembers_the_timesteps() -> None:
    whole = linear_schedule()
    half = whole.spaced(50)
    twice = half.respaced(range(0, 50, 7))
    assert len(half) == 50 and int(half.timesteps[-1]) == 999
    torch.testing.assert_close(half.signal, whole.signal[half.timesteps])
    assert twice.timesteps.tolist() == half.timesteps[::7].tolist()
    torch.testing.assert_close(twice.signal, whole.signal[twice.timesteps])
    assert whole.spaced(1000) is whole


@pytest.mark.parametrize("count", [10, 50, 100, 250, 999])
def test_linspace_is_diffusers(count: int) -> None:
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    theirs = schedulers.DDPMScheduler(1000, timestep_spacing="linspace")
    theirs.set_timesteps(count)
    assert spread(1000, count) == theirs.timesteps.tolist()[::-1]


def test_leading_has_one_stride_or_says_that_there_is_none() -> None:
    assert spread(1000, 50, "leading") == list(range(0, 1000, 20))
    with pytest.raises(VitrailError, match=r"no whole stride takes 300 .* 'linspace'"):
        spread(1000, 300, "leading")


@pytest.mark.parametrize("count", [0, 1, 11])
def test_more_or_fewer_steps_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(VitrailError, match="from 2 to 10"):
        spread(10, count)


@pytest.mark.parametrize("places", [[], [3, 3], [5, 4], [0, 10], [-1, 2]])
def test_places_must_rise_within_the_schedule(places: list[int]) -> None:
    with pytest.raises(VitrailError, match="must rise"):
        NoiseSchedule(torch.full((10,), 0.1)).respaced(places)


# ---------------------------------------------------------------------- reading a network


def test_learned_variance_lies_between_its_bounds() -> None:
    schedule = linear_schedule()
    noisy, fresh, steps = noise(1, 2, 2, 2), noise(1, 2, 2, 2, seed=1), torch.tensor([400])
    low, high = schedule.posterior_variance[400].log(), schedule.betas[400].log()
    for value, expected in ((-1.0, low), (1.0, high), (0.0, (low + high) / 2)):
        output = torch.cat([fresh, torch.full_like(fresh, value)], dim=1)
        found = schedule.predict(output, noisy, steps)
        torch.testing.assert_close(found.log_variance, torch.full_like(fresh, float(expected)))
    for fixed, expected in (("small", low), ("large", high)):
        found = schedule.predict(fresh, noisy, steps, fixed=fixed)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(found.log_variance, torch.full_like(fresh, float(expected)))


def test_clipping_bounds_the_clean_sample_and_corrects_the_noise() -> None:
    schedule = linear_schedule()
    noisy, steps = noise(2, 1, 4, 4), torch.tensor([300, 900])
    found = schedule.predict(noise(2, 1, 4, 4, seed=1), noisy, steps, clip=0.5)
    assert float(found.clean.abs().max()) == 0.5
    torch.testing.assert_close(schedule.add_noise(found.clean, found.noise, steps), noisy, atol=1e-4, rtol=0)


def test_a_wrong_number_of_channels_is_named() -> None:
    with pytest.raises(VitrailError, match=r"3 channels for samples of 2: .* 2, noise and variance 4"):
        linear_schedule().predict(noise(1, 3, 2, 2), noise(1, 2, 2, 2), torch.tensor([1]))


def test_half_precision_samples_are_computed_in_float32() -> None:
    found = linear_schedule().predict(noise(1, 2, 2, 2).bfloat16(), noise(1, 2, 2, 2).bfloat16(), torch.tensor([1]))
    assert found.mean.dtype == torch.float32


# ---------------------------------------------------------------------- losses


def test_kl_is_torchs() -> None:
    one = torch.distributions.Normal(noise(20), noise(20, seed=1).exp())
    other = torch.distributions.Normal(noise(20, seed=2), noise(20, seed=3).exp())
    found = gaussian_kl(one.loc, one.variance.log(), other.loc, other.variance.log())
    torch.testing.assert_close(found, torch.distributions.kl_divergence(one, other), atol=1e-5, rtol=1e-4)


def test_the_likelihoods_of_all_8_bit_values_add_up_to_one() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.1, 0.3), (0.9, 0.5), (-1.4, 0.05)):
        log = discrete_log_likelihood(values, torch.tensor(mean), torch.tensor(math.log(std), dtype=torch.float64))
        assert float(log.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_a_perfect_network_has_no_divergence_left() -> None:
    schedule = linear_schedule()
    clean, fresh, steps = noise(3, 2, 4, 4).clamp(-1, 1), noise(3, 2, 4, 4, seed=1), torch.tensor([1, 300, 999])
    noisy = schedule.add_noise(clean, fresh, steps)
    perfect = torch.cat([fresh, -torch.ones_like(fresh)], dim=1)
    assert float(variational_bound(schedule, perfect, clean, noisy, steps).abs().max()) < 1e-3
    worse = torch.cat([fresh + 1.0, -torch.ones_like(fresh)], dim=1)
    assert bool((variational_bound(schedule, worse, clean, noisy, steps) > 5e-3).all())


def test_the_first_term_is_a_likelihood_in_bits() -> None:
    schedule = linear_schedule()
    clean, fresh, steps = torch.zeros(1, 1, 2, 2), noise(1, 1, 2, 2), torch.tensor([0])
    noisy = schedule.add_noise(clean, fresh, steps)
    found = variational_bound(schedule, torch.cat([fresh, torch.zeros_like(fresh)], dim=1), clean, noisy, steps)
    low = float(schedule.posterior_variance[1].log() + schedule.betas[0].log()) / 2
    mass = math.erf(1 / 255 / math.exp(0.5 * low) / math.sqrt(2))
    assert float(found) == pytest.approx(-math.log2(mass), rel=1e-3)


def test_the_bound_teaches_the_variance_alone() -> None:
    schedule = linear_schedule()
    clean, fresh, steps = noise(2, 2, 4, 4), noise(2, 2, 4, 4, seed=1), torch.tensor([0, 500])
    noisy = schedule.add_noise(clean, fresh, steps)
    output = noise(2, 4, 4, 4, seed=2).requires_grad_()
    terms = hybrid_terms(schedule, output, clean, fresh, noisy, steps)
    (of_bound,) = torch.autograd.grad(terms.bound.sum(), output, retain_graph=True)
    (of_simple,) = torch.autograd.grad(terms.simple.sum(), output)
    assert not of_bound[:, :2].any() and bool(of_bound[:, 2:].flatten(1).any(dim=1).all())
    assert bool(of_simple[:, :2].all()) and not of_simple[:, 2:].any()
    torch.testing.assert_close(terms.simple, (output[:, :2] - fresh).square().mean(dim=(1, 2, 3)))
