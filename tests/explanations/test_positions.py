import pytest
import torch

from tests.explanations.planted import tiny_vit
from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import patch_positions, position_similarity
from vitrail.models import Backbone, VideoTransformer, build, config_of


def test_similarity_is_the_cosine_of_the_tables_rows_without_the_class_tokens():
    model = tiny_vit((16, 24), registers=2)
    table = model.pos_embed[0, 1:].detach().double()
    found = position_similarity(model)
    assert found.shape == (2, 3, 2, 3)
    for one in range(6):
        for other in range(6):
            a, b = table[one], table[other]
            expected = float(a @ b / a.norm() / b.norm())
            assert float(found[one // 3, one % 3, other // 3, other % 3]) == pytest.approx(expected, abs=1e-5)


def test_on_another_grid_the_positions_are_those_that_the_model_adds():
    model = tiny_vit((16, 24))
    images = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        added = model.embed(images).patches - model.patch_embed(images).values
    torch.testing.assert_close(patch_positions(model, (4, 5)), added[0], atol=1e-4, rtol=1e-4)
    assert position_similarity(model, (4, 5)).shape == (4, 5, 4, 5)


@pytest.mark.parametrize(
    "name", [n for n in TINY if n.startswith(("samvit", "videomae", "siglip", "vit_base_patch16"))]
)
def test_other_families_with_a_table(name):
    model = build(config_of(name, TINY[name]))
    if not isinstance(model, Backbone):
        pytest.skip("not a backbone")
    grid = model.config.grid
    found = position_similarity(model)
    assert found.shape == (*grid, *grid)
    assert len(grid) == (3 if isinstance(model, VideoTransformer) else 2)
    own = found.flatten(len(grid)).flatten(0, len(grid) - 1).diagonal()
    torch.testing.assert_close(own, torch.ones_like(own))


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith(("beit", "swin", "resnet"))])
def test_a_model_without_a_table_is_refused(name):
    with pytest.raises(VitrailError, match="no table of positions"):
        position_similarity(build(config_of(name, TINY[name])))
