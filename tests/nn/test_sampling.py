"""Samplers: diffusers' schedulers as the oracle, step by step with the same noise; guidance by its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitrail.nn.diffusion import linear_schedule
from vitrail.nn.sampling import DDIM, DDPM, guide, sample

schedulers = pytest.importorskip("diffusers.schedulers")
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
TOLERANCE = 1e-4


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Something that depends on everything it is given: noise, and a share for the variance."""
    told = (timesteps.float() / 1000).view(-1, 1, 1, 1)
    return torch.cat([(noisy + told).tanh(), (3 * noisy - told).sin()], dim=1)


def chain(theirs: object, split: bool, eta: float | None, start: Tensor) -> list[Tensor]:
    """Every sample on diffusers' way down."""
    generator = torch.Generator().manual_seed(5)
    noisy, seen = start, []
    extra = {} if eta is None else {"eta": eta}
    for t in theirs.timesteps:  # pyright: ignore[reportAttributeAccessIssue]
        output = network(noisy, t.expand(len(noisy)))
        output = output[:, : noisy.shape[1]] if split else output
        noisy = theirs.step(output, t, noisy, generator=generator, **extra).prev_sample  # pyright: ignore
        seen.append(noisy)
    return seen


def follow(count: int, spacing: str, step: DDPM | DDIM, split: bool, start: Tensor) -> list[Tensor]:
    """Every sample on our way down, with the same network and generator."""
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(noisy)
        output = network(noisy, timesteps)
        return output[:, : noisy.shape[1]] if split else output

    schedule = linear_schedule().spaced(count, spacing)  # pyright: ignore[reportArgumentType]
    last = sample(denoise, schedule, start, step, torch.Generator().manual_seed(5))
    return [*seen[1:], last]


def assert_same_way(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        scale = max(1.0, float(other.abs().max()))
        assert float((one - other).abs().max()) <= TOLERANCE * scale, f"step {number}"


@pytest.mark.parametrize(("count", "spacing"), [(250, "linspace"), (25, "linspace"), (50, "leading")])
def test_ddpm_with_learned_variance_equals_diffusers_at_every_step(count: int, spacing: str) -> None:
    theirs = schedulers.DDPMScheduler(
        **LINEAR, variance_type="learned_range", clip_sample=False, timestep_spacing=spacing
    )
    theirs.set_timesteps(count)
    start = noise(2, 4, 4, 4)
    assert_same_way(follow(count, spacing, DDPM(), False, start), chain(theirs, False, None, start))


@pytest.mark.parametrize("fixed", ["small", "large"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm_with_fixed_variance_equals_diffusers_at_every_step(fixed: str, clip: float | None) -> None:
    theirs = schedulers.DDPMScheduler(
        **LINEAR, variance_type=f"fixed_{fixed}", clip_sample=clip is not None, timestep_spacing="leading"
    )
    theirs.set_timesteps(100)
    start = noise(2, 4, 4, 4)
    step = DDPM(clip=clip, fixed=fixed)  # pyright: ignore[reportArgumentType]
    assert_same_way(follow(100, "leading", step, True, start), chain(theirs, True, None, start))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers_at_every_step(eta: float) -> None:
    theirs = schedulers.DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing="leading")
    theirs.set_timesteps(50)
    start = noise(2, 4, 4, 4)
    generator = torch.Generator().manual_seed(5)
    noisy, expected = start, []
    for t in theirs.timesteps:
        fresh = torch.randn(start.shape, generator=generator)
        output = network(noisy, t.expand(2))[:, :4]
        noisy = theirs.step(output, t, noisy, eta=eta, variance_noise=fresh if eta else None).prev_sample
        if int(t) == 0 and eta:
            # Ours, as the authors', adds no noise at the last step; diffusers' is of variance zero there.
            noisy = theirs.step(output, t, expected[-1], eta=0.0).prev_sample
        expected.append(noisy)
    assert_same_way(follow(50, "leading", DDIM(eta), False, start), expected)


def test_ddim_without_noise_is_decided_by_its_start() -> None:
    schedule, start = linear_schedule().spaced(10), noise(1, 4, 4, 4)
    one, other = (sample(network, schedule, start, DDIM(), torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.equal(one, other)
    one, other = (sample(network, schedule, start, DDPM(), torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("step", [DDPM(fixed="small"), DDIM(), DDIM(eta=1.0)])
def test_the_true_noise_of_a_known_distribution_leads_back_to_it(step: DDPM | DDIM) -> None:
    """Data drawn from a normal distribution: its best denoiser is known, and sampling must give its mean and spread."""
    schedule = linear_schedule().spaced(200)
    mean, spread = 2.0, 0.5
    signal = dict(zip(schedule.timesteps.tolist(), schedule.signal.tolist(), strict=True))

    def best(noisy: Tensor, timesteps: Tensor) -> Tensor:
        kept = signal[int(timesteps[0])]
        return (noisy - kept**0.5 * mean) * (1 - kept) ** 0.5 / (kept * spread**2 + 1 - kept)

    found = sample(best, schedule, noise(64, 1, 16, 16), step, torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(mean, abs=0.03)
    assert float(found.std()) == pytest.approx(spread, abs=0.03)


def labelled(noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    return network(noisy * (1 + labels.view(-1, 1, 1, 1)), timesteps)


@pytest.mark.parametrize("channels", [None, 3])
def test_guidance_is_its_formula_on_the_channels_asked_for(channels: int | None) -> None:
    noisy, timesteps, labels = noise(2, 4, 3, 3), torch.tensor([10, 800]), torch.tensor([0, 2])
    found = guide(labelled, labels, null=7, scale=4.0, channels=channels)(noisy, timesteps)
    free, told = labelled(noisy, timesteps, torch.tensor([7, 7])), labelled(noisy, timesteps, labels)
    count = channels or 4
    torch.testing.assert_close(found[:, :count], (free + 4.0 * (told - free))[:, :count])
    assert torch.equal(found[:, count:], told[:, count:])


def test_guidance_of_one_asks_once() -> None:
    sizes: list[int] = []

    def counting(noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(noisy))
        return labelled(noisy, timesteps, labels)

    noisy, timesteps, labels = noise(2, 4, 3, 3), torch.tensor([10, 800]), torch.tensor([0, 2])
    assert torch.equal(guide(counting, labels, 7, 1.0)(noisy, timesteps), labelled(noisy, timesteps, labels))
    assert sizes == [2]
