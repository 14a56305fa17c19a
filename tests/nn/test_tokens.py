import pytest
import torch

from vitrail.nn.matching import match_patches, merge_patches
from vitrail.nn.tokens import Tokens, take_patches


def test_feature_map_lays_patches_out_row_by_row():
    grid = (2, 3)
    patches = torch.arange(6.0)[None, :, None].expand(1, 6, 4)
    tokens = Tokens(patches, grid).prepend(torch.full((1, 2, 4), -1.0))
    assert tokens.prefix == 2
    assert tokens.feature_map().shape == (1, 4, 2, 3)
    assert torch.equal(tokens.feature_map()[0, 0], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


def test_feature_map_refuses_dropped_patches():
    tokens = Tokens(torch.zeros(1, 3, 4), (2, 3), keep=torch.tensor([[0, 2, 5]]))
    with pytest.raises(ValueError, match="keep only a part"):
        tokens.feature_map()


def test_feature_map_refuses_a_grid_that_the_patches_do_not_fill():
    with pytest.raises(ValueError, match="do not fill"):
        Tokens(torch.zeros(1, 5, 4), (2, 3)).feature_map()


def test_take_patches_chooses_for_every_picture_by_itself():
    values = torch.arange(2 * 4).view(2, 4, 1).float()
    taken = take_patches(values, torch.tensor([[3, 0], [1, 2]]))
    assert taken[..., 0].tolist() == [[3, 0], [5, 6]]


def test_prefix_and_patches_are_the_whole_sequence():
    tokens = Tokens(torch.randn(2, 7, 4), (2, 3), prefix=1)
    assert torch.equal(torch.cat([tokens.prefix_values, tokens.patches], 1), tokens.values)


@pytest.mark.parametrize(("prefix", "registers", "classed"), [(0, 0, False), (1, 0, True), (4, 4, False), (6, 4, True)])
def test_registers_alone_are_no_class_token(prefix: int, registers: int, classed: bool):
    bare = Tokens(torch.randn(2, 6, 4), (2, 3))
    tokens = bare.prepend(torch.randn(2, prefix, 4), registers)
    assert bare.class_token is False and tokens.class_token is classed
    for count in range(1, prefix + 1):
        few = tokens.leading(count)
        assert few.class_token is classed and few.registers == max(0, count - (prefix - registers))
    some = tokens._replace(keep=torch.arange(6).expand(2, -1))
    for kept in (merge_patches(some, match_patches(some.patches, 2)), tokens.with_values(tokens.values + 1)):
        assert kept.class_token is kept.unmerged().class_token is classed
        assert kept.registers == kept.unmerged().registers == registers
