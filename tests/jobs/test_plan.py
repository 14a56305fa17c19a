from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitrail.contracts import VitrailError
from vitrail.jobs.plan import PlanConfig, plan


def test_the_verb_prints_tables_and_writes_the_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "plan.json", tmp_path / "plan.png"
    names = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
    accounts = plan(PlanConfig(models=names, batch_size=2, json=file, plot=plot, sides=(224, 448)))
    shown = capsys.readouterr().out
    assert "5,717,416 parameters" in shown and "blocks: attention" in shown and "checkpointed" in shown
    stored = json.loads(file.read_text())
    assert [entry["macs"] for entry in stored["models"]] == [account.macs for account in accounts]
    assert [point["side"] for point in stored["curves"][1]["points"]] == [224, 448]
    assert plot.is_file()


def test_wrong_questions_are_answered_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="did you mean vit_tiny_patch16_224"):
        plan(PlanConfig(models=("vit_tiny_patch16_22",)))
    with pytest.raises(VitrailError, match="batch_size"):
        plan(PlanConfig(models=("vit_tiny_patch16_224",), batch_size=0))
    with pytest.raises(VitrailError, match="at least one model"):
        plan(PlanConfig(models=()))


def test_the_time_is_predicted_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    plan(PlanConfig(models=("vit_tiny_patch16_224", "vit_small_patch16_224"), time=True, json=file))
    shown = capsys.readouterr().out
    assert shown.count("inference ≈") == 2 and "on this machine's processor" in shown
    tiny, small = json.loads(file.read_text())["times"]
    assert 0 < tiny["inference"] < small["inference"] < small["training"]
    assert tiny["rates"] == small["rates"]
