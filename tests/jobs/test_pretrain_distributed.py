"""Two processes pretrain what one process pretrains."""

import csv
from pathlib import Path

import pytest

from tests.jobs.tiny_pretrain import pretrain_config
from tests.jobs.torchrun import in_two_processes
from vitrail.jobs.pretrain import pretrain


@pytest.mark.timeout(200)
def test_the_loss_curve_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "one", epochs=3, hflip=0.5, log_every=1, report=False)
    pretrain(config)
    in_two_processes("pretrain", config, tmp_path)
    one, two = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two"))
    assert len(one) == len(two) == 63
    for alone, together in zip(one, two, strict=True):
        assert float(together["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-4)
        assert float(together["grad_norm"]) == pytest.approx(float(alone["grad_norm"]), rel=1e-2)
    for column in ("val_knn", "val_feature_rank"):
        assert float(two[-1][column]) == pytest.approx(float(one[-1][column]), rel=0.02)
