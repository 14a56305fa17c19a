"""Options that change how something is computed and not what comes out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config
from vitrail.contracts import Method, Progress, Role, VitrailError
from vitrail.jobs.embed import EmbedConfig
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
