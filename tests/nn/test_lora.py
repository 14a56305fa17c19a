import torch
from torch import nn

from vitrail.nn.linear import KeylessLinear, third_of
from vitrail.nn.lora import LoRALinear, add_lora, merge_lora


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False))


def test_an_adapted_layer_starts_where_the_frozen_one_stands():
    model, x = net(), torch.randn(3, 6)
    before = model(x)
    assert add_lora(model, lambda name: True, rank=2) == 2
    assert torch.equal(model(x), before)


def test_only_the_updates_learn_and_names_of_the_frozen_parameters_stay():
    model = net()
    names = set(model.state_dict())
    add_lora(model, lambda name: name == "0", rank=2)
    assert names <= set(model.state_dict())
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"0.lora_a", "0.lora_b", "2.weight"}


def test_merging_gives_plain_layers_with_the_same_answers():
    model, x = net(), torch.randn(3, 6)
    add_lora(model, lambda name: True, rank=2, alpha=4.0)
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            nn.init.normal_(layer.lora_b)
    adapted = model(x)
    merge_lora(model)
    assert not any(isinstance(layer, LoRALinear) for layer in model.modules())
    torch.testing.assert_close(model(x), adapted)
    assert set(model.state_dict()) == set(net().state_dict())


def test_the_update_is_scaled_by_alpha_over_rank():
    layer = LoRALinear(nn.Linear(4, 4, bias=False), rank=2, alpha=6.0)
    nn.init.ones_(layer.lora_a)
    nn.init.ones_(layer.lora_b)
    x = torch.ones(1, 4)
    update = layer(x) - x @ layer.weight.T
    torch.testing.assert_close(update, torch.full((1, 4), 3.0 * 2 * 4))


def test_a_projection_whose_keys_have_no_bias_is_adapted_too():
    torch.manual_seed(0)
    base, x = KeylessLinear(6, 18), torch.randn(2, 5, 6)
    nn.init.normal_(base.q_bias)
    model = nn.Sequential(base)
    names, before = set(model.state_dict()), model(x)
    assert add_lora(model, lambda name: name == "0", rank=2, alpha=4.0) == 1
    assert torch.equal(model(x), before)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"0.lora_a", "0.lora_b"}
    nn.init.normal_(model[0].lora_b)
    adapted = model(x)
    assert (adapted - before).abs().min(dim=0).values.max() > 0
    thirds = [third_of(model[0], x, third) for third in range(3)]
    torch.testing.assert_close(torch.cat(thirds, -1), adapted)
    merge_lora(model)
    assert type(model[0]) is KeylessLinear and set(model.state_dict()) == names
    torch.testing.assert_close(model(x), adapted)
