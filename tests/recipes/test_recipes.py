import inspect

import pytest
import torch

from vitrail.data import Preprocess
from vitrail.jobs.models import open_model
from vitrail.jobs.options import filled
from vitrail.jobs.pretrain import architecture
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.table import Start, pretraining
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.train_config import TrainConfig
from vitrail.models import build, config_of
from vitrail.recipes import RECIPES, recipe_config
from vitrail.weights import named_config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_describes_a_run_that_could_start(name: str):
    config = recipe_config(name)
    text = inspect.getdoc(inspect.getmodule(RECIPES[name])) or ""
    assert f"--recipe {name}" in text and "Expected:" in text and "Cost:" in text
    if isinstance(config, ProbeConfig):
        return
    if isinstance(config, PretrainConfig):
        assert config.engine().epochs == config.epochs
        assert config.micro_batch(1) * config.accumulate == config.batch_size
        entry = pretraining(config.method)
        filled(entry.options, config.method_options, "option")
        with torch.device("meta"):
            build(named_config(config.model, architecture(config, entry)))
        return
    assert isinstance(config, TrainConfig)
    with torch.device("meta"):
        model = build(config_of(config.model, {**config.options(), "num_classes": 2}))
    config.tuning()(model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert config.engine().epochs == config.epochs
    assert config.augment().hflip == config.hflip
    assert config.micro_batch(1) * config.accumulate == config.batch_size
    assert (config.mixing(10) is None) == (not (config.mixup or config.cutmix or config.smoothing))


@pytest.mark.parametrize("name", ["elpv_dinov2", "fashion_mnist_dino"])
def test_recipes_with_several_views_make_a_method_and_samples_for_it(name: str):
    config = recipe_config(name)
    assert isinstance(config, PretrainConfig)
    entry = pretraining(config.method)
    options = filled(entry.options, config.method_options, "option")
    model = open_model(config.model, architecture(config, entry), pretrained=False, online=False).model
    preprocess = Preprocess(model.img_size, 1.0, mean=(0.5,) * model.in_channels, std=(0.5,) * model.in_channels)
    start = Start(model, preprocess, config.augment())
    assert entry.build(start, options).roles()
    sample = entry.transform(start, options)(torch.zeros(model.in_channels, 40, 40, dtype=torch.uint8))
    assert isinstance(sample, dict)
    local, whole = (sample[key].finished() for key in ("local_views", "images"))
    sides = (*local.shape[-2:], *whole.shape[-2:])
    assert whole.shape[1:] == model.img_size and not any(side % model.patch_size[0] for side in sides)


def test_the_plain_recipe_differs_from_the_demonstrations_in_the_recipe_alone():
    ours, plain = vars(recipe_config("elpv")), vars(recipe_config("elpv_plain"))
    same = ("data", "model", "epochs", "batch_size", "crop", "split_seed", "precision", "eval_every")
    assert all(ours[name] == plain[name] for name in same)
    assert (plain["lr"], plain["layer_decay"], plain["ema_decay"], plain["smoothing"]) == (2e-4, 1.0, None, 0.0)
    assert (plain["image_size"] // 14) ** 2 == pytest.approx((ours["image_size"] // 14) ** 2 * 0.5, rel=0.1)
    assert (ours["model_options"], plain["model_options"]) == (("patch_drop=0.5",), ())
