"""BEiT's objective against the plain equation in float64; what learns and what does not; better features of digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.data.finished import finished
from tests.methods.digits import PREPROCESS, Cut, columns, digits, digits_loader, knn_accuracy, train
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.data import Augment, Preprocess, TrainTransform
from vitrail.engine import Interrupted
from vitrail.methods.beit import MASK, TOKENIZED, BEiT, BEiTOptions, TokenView, require_same_grid
from vitrail.methods.tokenizer import Tokenizer, TokenizerOptions
from vitrail.models import Beit, BeitConfig, DiscreteVAE, DVAEConfig
from vitrail.nn.block_mask import block_mask

START = Progress(0, 10, 0, 1)
TINY = BeitConfig(
    img_size=8,
    in_channels=1,
    num_classes=0,
    patch_size=2,
    embed_dim=32,
    depth=2,
    num_heads=2,
    mask_token=True,
    shared_bias=True,
    pool_norm=False,
)
CODES = DVAEConfig(img_size=8, in_channels=1, vocab_size=32, stride=2, width=16, blocks=1, code_dim=8)
VIEW = TokenView(TrainTransform(PREPROCESS, None), None, (4, 4), BEiTOptions())


def beit(seed: int = 0) -> BEiT:
    torch.manual_seed(seed)
    return BEiT(Beit(TINY), DiscreteVAE(CODES))


def some_digits(count: int = 6, extras: dict[str, Tensor] | None = None) -> Batch:
    mask = block_mask(count, (4, 4), 6, generator=torch.Generator().manual_seed(1))
    images = digits()[0][:count]
    return Batch(images, None, torch.arange(count), tuple(map(str, range(count))), {MASK: mask, **(extras or {})})


def perturbed() -> BEiT:
    method = beit()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def test_loss_and_gradient_agree_with_the_equation_in_float64() -> None:
    method, batch = perturbed(), some_digits()
    losses = method(batch, START)
    losses["loss"].backward()
    found = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    method.zero_grad(set_to_none=True)
    method.double()
    images, mask = batch.images.double(), batch.extras[MASK]
    codes = method.tokenizer.encoder(images).argmax(1).flatten(1)
    model = method.model
    patches = model.patch_embed(images).values
    assert model.mask_token is not None and model.cls_token is not None
    for picture, row in enumerate(mask):
        for place in row.nonzero().flatten().tolist():
            patches[picture, place] = model.mask_token[0]
    tokens = model.embed(images).with_values(torch.cat([model.cls_token.expand(6, -1, -1), patches], dim=1))
    scores = method.lm_head(model.encode(tokens).values[:, 1:])
    total, right = torch.zeros((), dtype=torch.float64), 0
    for picture, place in mask.nonzero().tolist():
        row, code = scores[picture, place], codes[picture, place]
        total = total - (row[code] - torch.log(torch.exp(row).sum()))
        right += int(row.argmax() == code)
    expected = total / 36
    torch.testing.assert_close(losses["loss"].double(), expected, atol=1e-5, rtol=1e-5)
    assert losses["accuracy"].item() == pytest.approx(right / 36)
    expected.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            gradient = found[name]
            assert gradient is not None and parameter.grad is not None
            torch.testing.assert_close(gradient.double(), parameter.grad, atol=1e-5, rtol=1e-3)


def test_what_is_behind_a_mask_changes_the_wanted_tokens_alone() -> None:
    """The transformer never sees a masked patch; a tokenizer's own view decides what is wanted."""
    method, batch = perturbed(), some_digits()
    grid = batch.extras[MASK].view(6, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    hidden = Batch(
        torch.where(grid, 9.0, batch.images),
        None,
        batch.indices,
        batch.names,
        {**batch.extras, TOKENIZED: batch.images},
    )
    for name, value in method(batch, START).items():
        torch.testing.assert_close(method(hidden, START)[name], value)
    other = some_digits(extras={TOKENIZED: batch.images.flip(0)})
    assert not torch.allclose(method(other, START)["loss"], method(batch, START)["loss"])


def test_gradient_reaches_all_of_the_transformer_and_nothing_of_the_tokenizer() -> None:
    method = perturbed()
    method(some_digits(), START)["loss"].backward()
    names = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert names == {name for name, _ in method.named_parameters() if not name.startswith("tokenizer.")}
    assert set(method.roles()) == {name for name, p in method.named_parameters() if p.requires_grad}
    assert method.roles()["lm_head.weight"].depth == 3 and not method.roles()["model.mask_token"].decay
    assert method.export() is method.model


def test_both_views_are_of_one_crop() -> None:
    augment = Augment(scale=(0.3, 0.9), hflip=0.5, vflip=0.5, quarter_turns=True, randaugment=None, erasing=0.0)
    small, large = (Preprocess(size=(side, side), mean=(0.0,), std=(1.0,)) for side in (16, 32))
    view = TokenView(TrainTransform(large, augment), TrainTransform(small, augment), (4, 4), BEiTOptions())
    picture = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5), (40, 60), mode="bicubic")[0].clamp(0, 1)
    picture = (255 * picture).byte()
    seen = set()
    for _ in range(8):
        sample = finished(view(picture))
        assert sample[MASK].shape == (16,) and int(sample[MASK].sum()) == 6
        halved = torch.nn.functional.avg_pool2d(sample["images"][None], 2)[0]
        assert (halved - sample[TOKENIZED]).abs().mean() < 0.01
        assert (halved.flip(2) - sample[TOKENIZED]).abs().mean() > 0.03
        seen.add(float(sample["images"].sum()))
    assert len(seen) == 8


def test_models_and_batches_that_do_not_fit_are_refused() -> None:
    for change in ({"mask_token": False}, {"pool_norm": True}):
        with pytest.raises(VitrailError, match="mask_token=true and pool_norm=false"):
            BEiT(Beit(BeitConfig(**{**TINY.__dict__, **change})), DiscreteVAE(CODES))
    with pytest.raises(VitrailError, match=r"patch_drop=0\.5 would leave out masked patches"):
        BEiT(Beit(replace(TINY, shared_bias=False, patch_drop=0.5)), DiscreteVAE(CODES))
    batch = some_digits()
    with pytest.raises(VitrailError, match="TokenView"):
        beit()(Batch(batch.images, None, batch.indices, batch.names), START)
    with pytest.raises(VitrailError, match="64 visual tokens do not stand for 16 patches"):
        large = {TOKENIZED: torch.zeros(6, 1, 16, 16)}
        beit()(some_digits(extras=large), START)
    with pytest.raises(VitrailError, match="7×7 patches but the tokenizer into 4×4 codes"):
        require_same_grid((7, 7), (4, 4))
    with pytest.raises(VitrailError, match="mask_ratio"):
        BEiTOptions(mask_ratio=0.0)


def test_features_learnt_on_digits_beat_fresh_ones(tmp_path: Path) -> None:
    """On a tokenizer that is itself trained on them: the whole path in miniature."""
    torch.manual_seed(0)
    numbers = TokenizerOptions(
        temperature=2.0, last_temperature=0.25, temperature_share=0.9, kl_weight=0.3, kl_share=0.0, least_scale=0.5
    )
    tokenizer = Tokenizer(DiscreteVAE(replace(CODES, vocab_size=16)), numbers, PREPROCESS.mean, PREPROCESS.std)
    plain = digits_loader(TrainTransform(PREPROCESS, None))
    trained = train(tmp_path / "tokenizer", tokenizer, plain, epochs=5, lr=1e-2).model
    assert isinstance(trained, DiscreteVAE)
    torch.manual_seed(0)
    method = BEiT(Beit(TINY), trained)
    tokens = {name: value.clone() for name, value in method.tokenizer.state_dict().items()}
    fresh = knn_accuracy(method.model)
    done = train(tmp_path / "beit", method, digits_loader(VIEW), epochs=15, lr=1e-2)
    table = columns(tmp_path / "beit")
    assert isinstance(done.model, Beit)
    print(
        fresh,
        knn_accuracy(done.model),
        table["loss"][0],
        table["loss"][-1],
        table["accuracy"],
        table["token_entropy"][-1],
    )
    assert table["loss"][-1] < table["token_entropy"][-1] < table["loss"][0]
    assert table["accuracy"][-1] > table["accuracy"][0] + 0.1
    assert knn_accuracy(done.model) > fresh + 0.04
    assert all(torch.equal(value, method.tokenizer.state_dict()[name]) for name, value in tokens.items())


def test_an_interrupted_run_ends_bit_equal(tmp_path: Path) -> None:
    loader = digits_loader(VIEW, 20)
    train(tmp_path / "whole", beit(), Cut(loader, 3))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", beit(), Cut(loader, 3, (1, 1)), checkpoint_every_steps=2)
    # Another beginning: everything that counts comes from the checkpoint, the tokenizer too.
    assert train(tmp_path / "cut", beit(seed=7), Cut(loader, 3)).resumed
    whole, cut = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
