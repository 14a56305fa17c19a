"""Options that change how something is computed and not what comes out."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.tiny import TINY, tiny_config
from vitrail.contracts import Method, Progress, Role, VitrailError
from vitrail.jobs.embed import EmbedConfig
from vitrail.jobs.options import named_values
from vitrail.jobs.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_no_process_reads_beside_a_model_that_answers_on_a_cpu_unless_asked_for() -> None:
    left_out, asked = EmbedConfig(source="pictures"), EmbedConfig(source="pictures", workers=3)
    assert (left_out.inference_workers(CPU), left_out.inference_workers(CUDA), left_out.training_workers) == (0, 2, 2)
    assert (asked.inference_workers(CPU), asked.inference_workers(CUDA), asked.training_workers) == (3, 3, 3)
    with pytest.raises(VitrailError, match="workers must be at least 0"):
        EmbedConfig(source="pictures", workers=-1)


def test_training_with_blocks_computed_twice_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    weights = []
    for again in (False, True):
        config = tiny_config(
            photos, tmp_path / str(again), epochs=1, workers=0, report=False, drop_path=0.3, checkpoint_blocks=again
        )
        train(config)
        weights.append(load_file(tmp_path / str(again) / "model" / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Blockless(Method):
    def forward(self, batch: object, progress: Progress) -> dict[str, torch.Tensor]:
        return {}

    def roles(self) -> dict[str, Role]:
        return {}

    def export(self) -> torch.nn.Module:
        return self


def test_a_model_without_blocks_cannot_compute_them_twice(photos: Path, tmp_path: Path) -> None:
    method = Blockless()
    assert tiny_config(photos, tmp_path).checkpointed(method) is method
    with pytest.raises(VitrailError, match="no stack of blocks"):
        tiny_config(photos, tmp_path, checkpoint_blocks=True).checkpointed(method)


def test_values_of_options_are_read_as_one_writes_them() -> None:
    words = ("depth=6", "layer-scale=1e-5", "rates=[1e-4, 2.5E+3, 3]", "pool=mean", "init=1e", "fit=", "norm=true")
    assert named_values(words, "model option") == {
        "depth": 6,
        "layer_scale": 1e-5,
        "rates": [1e-4, 2500.0, 3],
        "pool": "mean",
        "init": "1e",
        "fit": None,
        "norm": True,
    }


@pytest.mark.parametrize("words", ["depth", "depth=[", "depth=a: b: c"])
def test_what_is_no_option_is_named(words: str) -> None:
    with pytest.raises(VitrailError, match=re.escape(f"model option {words!r}")):
        named_values([words], "model option")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_options": ("depth=x",)}, "vit_tiny_patch16_224: depth must be int, not 'x'"),
        ({"dropout": 2.0}, "dropout must be at least 0 and below 1, not 2.0"),
        ({"drop_path": 2.0, "model_options": ("depth=1", *TINY[1:])}, "drop_path must be at least 0 and below 1"),
        ({"tune": "lora", "lora_rank": 33}, "low-rank updates of a VisionTransformer: rank must be between 1 and 32"),
    ],
)
def test_numbers_of_a_model_that_cannot_be_end_in_one_clear_error(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VitrailError, match=message):
        train(tiny_config(photos, tmp_path / "out", **changes))
