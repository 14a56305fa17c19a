import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.tiny import tiny_config
from vitrail.cli import VERBS, main, parse
from vitrail.contracts import VitrailError
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.settings import to_plain, write_config
from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import RECIPES, recipe_config, recipe_summaries


def test_data_comes_first_and_the_shared_options_have_one_name_everywhere():
    line = (
        "photos --model vit_tiny_patch16_224 --image-size 96 160 --patch-size 8 --epochs 3 --batch-size 4 --seed 7 "
        "--out here --device cpu --precision bf16 --randaugment None --hflip 0 --fresh"
    )
    config = parse("train", line.split())
    assert (config.data, config.image_size, config.patch_size) == ("photos", (96, 160), 8)
    assert (config.epochs, config.batch_size, config.seed, config.out) == (3, 4, 7, Path("here"))
    assert (config.device, config.precision, config.randaugment, config.hflip, config.fresh) == (
        "cpu",
        "bf16",
        None,
        0.0,
        True,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"vitrail {verb}" in capsys.readouterr().out


def test_a_written_config_is_the_config_that_comes_back(photos: Path, tmp_path: Path):
    config = tiny_config(photos, tmp_path / "run", mixup=0.2, color_jitter=0.1, image_size=(16, 24))
    write_config("train", config, tmp_path / "config.yaml")
    assert parse("train", ["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_the_way_through_a_file(name: str, tmp_path: Path):
    config = recipe_config(name)
    verb = {TrainConfig: "train", ProbeConfig: "probe", PretrainConfig: "pretrain"}[type(config)]
    write_config(verb, config, tmp_path / "config.yaml")
    assert parse(verb, ["--config", str(tmp_path / "config.yaml")]) == config
    assert parse(verb, ["--recipe", name]) == config
    assert len(recipe_summaries()[name]) > 20


def test_options_win_over_a_file_and_a_file_over_a_recipe(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("epochs: 4\nlr: 1e-3\n")
    config = parse("train", ["--recipe", "elpv", "--config", str(tmp_path / "mine.yaml"), "--epochs", "9"])
    assert (config.data, config.epochs, config.lr, config.batch_size) == (
        "elpv",
        9,
        1e-3,
        recipe_config("elpv").batch_size,
    )


def test_files_with_unknown_options_or_no_options_are_refused_by_name(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text("epoch: 4\n")
    with pytest.raises(VitrailError, match=r"bad\.yaml: unknown option epoch"):
        parse("train", ["--config", str(file)])
    file.write_text("- 1\n")
    with pytest.raises(VitrailError, match=r"bad\.yaml: a config is"):
        parse("train", ["--config", str(file)])
    with pytest.raises(VitrailError, match=r"gone\.yaml"):
        parse("train", ["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(VitrailError, match="not for probe"):
        parse("probe", ["--recipe", "elpv"])


def test_a_config_names_only_what_is_not_the_default():
    assert to_plain(TrainConfig(data="photos", epochs=3)) == {"data": "photos", "epochs": 3}


def test_errors_of_input_end_with_one_line_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--model", str(tmp_path / "nothing"), "--device", "cpu"])
    assert end.value.code == 1
    assert "nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2


def test_list_prints_models_with_their_exact_sizes(capsys: pytest.CaptureFixture):
    main(["list", "models", "--match", "vit_base_patch16_224"])
    assert "86,567,656" in capsys.readouterr().out
    main(["list", "data"])
    assert "elpv" in capsys.readouterr().out


def test_importing_the_package_alone_loads_neither_torch_nor_anything_heavy():
    code = "import sys, vitrail; print(vitrail.__version__, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] == "False"


def test_the_module_is_the_command_line(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "vitrail", "list", "recipes"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "elpv" in done.stdout
    assert json.dumps(done.stderr) == '""'
