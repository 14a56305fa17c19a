"""DiT: sizes, the null class, positions of any grid, and what every model of the house must do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations import record
from vitrail.models import DiffusionTransformer, DiTConfig, build, config_of, list_models, sample_latents
from vitrail.nn.diffusion import linear_schedule
from vitrail.nn.position import sincos_2d
from vitrail.nn.sampling import DDIM
from vitrail.weights import Artefact, load_artefact

from .peers import perturb
from .tiny_dit import TINY

SIZES = {"small": 33, "base": 130, "large": 458, "xlarge": 675}


def tiny(name: str = "dit_small_patch2_256", **options: object) -> DiffusionTransformer:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **options}))
    assert isinstance(model, DiffusionTransformer)
    perturb(model)
    return model


def inputs(model: DiffusionTransformer, *size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, model.in_channels, *(size or model.img_size), generator=generator)
    return latents, torch.tensor([3, 871]), torch.tensor([1, 4])


every_model = pytest.mark.parametrize("name", TINY)


def test_xlarge_has_exactly_the_published_weights() -> None:
    with torch.device("meta"):
        model = build(config_of("dit_xlarge_patch2_256"))
    assert sum(p.numel() for p in model.parameters()) == 675_129_632
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 674_834_720


@pytest.mark.parametrize("name", list_models("dit_*"))
def test_every_size_has_the_papers_millions_and_grid(name: str) -> None:
    _, size, patch, pixels = name.split("_")
    config = config_of(name)
    with torch.device("meta"):
        model = build(config)
    assert int(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6) in (SIZES[size] - 1, SIZES[size])
    assert isinstance(config, DiTConfig)
    assert config.grid == (int(pixels) // 8 // int(patch.removeprefix("patch")),) * 2


@every_model
def test_forward_and_backward_reach_every_learned_weight(name: str) -> None:
    model = tiny(name).train()
    output = model(*inputs(model))
    channels = 4 if name.endswith("512") else 8
    assert output.shape == (2, channels, *model.img_size) and bool(output.isfinite().all())
    output.square().sum().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {"pos_embed"}


@every_model
def test_example_inputs_are_what_forward_takes(name: str) -> None:
    model = tiny(name)
    latents, timesteps, labels = model.example_inputs(3)
    assert model(latents, timesteps, labels).shape[0] == 3
    patch = model.patch_size[0]
    assert model(*model.example_inputs(1, (patch, 3 * patch))).shape[2:] == (patch, 3 * patch)


def test_fresh_blocks_are_the_identity_and_the_answer_is_zero() -> None:
    model = build(config_of("dit_small_patch2_256", TINY["dit_small_patch2_256"])).eval()
    assert isinstance(model, DiffusionTransformer)
    latents, timesteps, labels = inputs(model)
    (last,) = model.intermediates(latents, [-1], norm=False, timesteps=timesteps, labels=labels)
    assert torch.equal(last.values, model.embed(latents).values)
    assert not model(latents, timesteps, labels).any()
    for weight in (model.time_embed.fc1.weight, model.label_embed.table.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_no_labels_is_the_null_class() -> None:
    model = tiny()
    latents, timesteps, labels = inputs(model)
    null = torch.full_like(labels, 5)
    assert torch.equal(model(latents, timesteps), model(latents, timesteps, null))
    assert not torch.allclose(model(latents, timesteps), model(latents, timesteps, labels))


def test_labels_are_lost_in_training_only_and_as_often_as_asked() -> None:
    model = tiny(label_dropout=0.3)
    labels = torch.full((4000,), 2)
    rows = model.train().label_embed(labels)
    lost = (rows == model.label_embed.table.weight[5]).all(dim=1)
    kept = (rows == model.label_embed.table.weight[2]).all(dim=1)
    assert bool((lost | kept).all())
    assert float(lost.float().mean()) == pytest.approx(0.3, abs=0.04)
    assert not bool((model.eval().label_embed(labels) != model.label_embed.table.weight[2]).any())


def test_a_model_without_classes_needs_none() -> None:
    model = tiny(num_classes=0)
    latents, timesteps, _ = inputs(model)
    assert model(latents, timesteps).shape == (2, 8, 8, 8)
    assert model(*model.example_inputs(2)).shape == (2, 8, 8, 8)


@every_model
def test_intermediates_are_tokens_of_the_grid_and_take_timestep_and_label(name: str) -> None:
    model = tiny(name)
    patch = model.patch_size[0]
    latents, timesteps, labels = inputs(model, 2 * patch, 3 * patch)
    with torch.no_grad():
        first, last = model.intermediates(latents, [0, -1], timesteps=timesteps, labels=labels)
        plain = model.intermediates(latents, [1])[0]
        default = model.intermediates(latents, [1], timesteps=torch.zeros(2), labels=torch.full((2,), 5))[0]
        maps = model.feature_maps(latents)
        answer = model(latents, timesteps, labels)
    assert first.grid == last.grid == (2, 3) and first.prefix == 0
    assert torch.equal(plain.values, default.values)
    assert not torch.allclose(plain.values, last.values)
    assert [tuple(found.shape) for found in maps] == [(2, 16, 2, 3)] * 2
    assert torch.equal(model.unpatchify(model.final.linear(last.values), last.grid), answer)
    with pytest.raises(IndexError, match="block 2"):
        model.intermediates(latents, [2])


def test_patches_are_laid_out_where_they_came_from() -> None:
    model = tiny("dit_xlarge_patch2_512")
    latents = torch.arange(2 * 4 * 4 * 6.0).view(2, 4, 4, 6)
    patches = latents.view(2, 4, 2, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 6, 16)
    assert torch.equal(model.unpatchify(patches, (2, 3)), latents)


def test_a_model_built_for_another_size_and_one_shown_it_agree() -> None:
    small, large = tiny(), tiny(img_size=(12, 6))
    large.load_state_dict({**small.state_dict(), "pos_embed": sincos_2d(16, (6, 3))})
    shown = inputs(small, 12, 6)
    assert torch.equal(small(*shown), large(*shown))


@pytest.mark.parametrize(("size", "message"), [((7, 8), "height 7 .* use 6 or 8"), ((8, 1), "width 1 .* use 2$")])
def test_a_size_that_patches_do_not_divide_is_refused(size: tuple[int, int], message: str) -> None:
    model = tiny()
    with pytest.raises(VitrailError, match=message):
        model(*inputs(model, *size))
    with pytest.raises(VitrailError, match="not a multiple of patch_size"):
        DiTConfig(img_size=size)


@pytest.mark.parametrize("values", [{"depth": 0}, {"num_heads": 5}, {"num_classes": -1}, {"label_dropout": 1.5}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(VitrailError):
        DiTConfig(**values)  # pyright: ignore[reportArgumentType]


@every_model
def test_an_artefact_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    preprocess = Preprocess(size=model.img_size, mean=(0.0,) * 4, std=(1.0,) * 4)
    Artefact(model, ("a", "b", "c", "d", "e"), preprocess).save_pretrained(tmp_path / "dit")
    again = load_artefact(tmp_path / "dit")
    assert again.model.config == model.config and again.classes == ("a", "b", "c", "d", "e")
    assert torch.equal(again.model(*inputs(model)), model(*inputs(model)))


@every_model
def test_attention_is_recorded_on_the_grid(name: str) -> None:
    model = tiny(name)
    patch = model.patch_size[0]
    shown = inputs(model, 2 * patch, 3 * patch)
    with record(model, queries=None) as attention, torch.no_grad():
        with_record = model(*shown)
    assert attention.layers == (0, 1)
    torch.testing.assert_close(attention[0].weights.sum(dim=-1), torch.ones(2, 2, 6))
    assert attention.maps(-1).shape == (2, 2, 6, 2, 3)
    with torch.no_grad():
        assert torch.equal(model(*shown), with_record)


@every_model
def test_every_parameter_has_a_role_by_depth_and_kind(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    depths = {"patch_embed.proj.weight": 0, "time_embed.fc2.bias": 0, "blocks.1.modulation.weight": 2}
    assert all(roles[key].depth == depth for key, depth in depths.items())
    assert roles["final.linear.weight"].depth == 3
    undecayed = {n for n, role in roles.items() if not role.decay}
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
    assert undecayed == vectors | {"pos_embed", "label_embed.table.weight"}


# ---------------------------------------------------------------------- latents of classes


def test_sampling_is_reproducible_follows_its_labels_and_keeps_the_models_type() -> None:
    model = tiny()
    schedule = linear_schedule().spaced(5)

    def draw(labels: list[int], guidance: float = 3.0, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_latents(
            model, torch.tensor(labels), schedule=schedule, guidance=guidance, generator=generator, size=(4, 6)
        )

    found = draw([1, 2])
    assert found.shape == (2, 4, 4, 6) and found.dtype == torch.float32 and not found.requires_grad
    assert torch.equal(found, draw([1, 2]))
    assert not torch.allclose(found, draw([1, 2], seed=1))
    assert not torch.allclose(found[1], draw([1, 3])[1])
    torch.testing.assert_close(draw([5, 5], guidance=3.0), draw([5, 5], guidance=1.0), atol=1e-3, rtol=1e-3)
    model.bfloat16()
    assert draw([1, 2]).dtype == torch.float32


def test_guidance_of_three_channels_leaves_the_fourth_to_the_label() -> None:
    model = tiny()
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    one_step = {"schedule": linear_schedule().respaced([600]), "step": DDIM(), "start": start}
    label = torch.tensor([1])
    plain = sample_latents(model, label, guidance=1.0, **one_step)
    three = sample_latents(model, label, guidance=4.0, **one_step)
    four = sample_latents(model, label, guidance=4.0, guided_channels=None, **one_step)
    torch.testing.assert_close(three[:, 3], plain[:, 3])
    torch.testing.assert_close(three[:, :3], four[:, :3])
    assert not torch.allclose(three[:, :3], plain[:, :3]) and not torch.allclose(four[:, 3], plain[:, 3])


def test_sampling_refuses_training_mode_and_unknown_labels() -> None:
    model = tiny()
    with pytest.raises(VitrailError, match="between 0 and 5"):
        sample_latents(model, torch.tensor([6]))
    with pytest.raises(VitrailError, match=r"model\.eval"):
        sample_latents(model.train(), torch.tensor([1]))
