import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

import pytest

from tests.jobs.tiny import tiny_config
from vitrail.cli import VERBS, main, parse
from vitrail.contracts import VitrailError
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.settings import to_plain, write_config
from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import RECIPES, recipe_config, recipe_summaries
from vitrail.weights import list_pretrained


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


def test_an_option_that_a_file_gives_twice_is_refused_with_its_lines(tmp_path: Path):
    file = tmp_path / "twice.yaml"
    file.write_text("lr: 1e-3\nepochs: 4\n\nlr: 1e-4\n")
    with pytest.raises(VitrailError, match=r"twice\.yaml: lr is given twice, in line 1 and in line 4"):
        parse("train", ["photos", "--config", str(file)])


def test_lists_in_a_file_are_as_many_words_also_for_what_stands_without_an_option(tmp_path: Path):
    file = tmp_path / "plan.yaml"
    file.write_text("models: [vit_tiny_patch16_224, resnet18]\nsides: [32, 64]\n")
    config = parse("plan", ["--config", str(file)])
    assert (config.models, config.sides) == (("vit_tiny_patch16_224", "resnet18"), (32, 64))
    file.write_text("compare: [-x=2, a=1]\nmodel_options: []\n")
    config = parse("train", ["photos", "--config", str(file)])
    assert (config.compare, config.model_options) == (("-x=2", "a=1"), ())


def test_the_order_of_a_file_means_nothing_and_what_it_leaves_out_may_stand_on_the_line(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("target: there\nto: timm\nsource: here\n")
    config = parse("convert", ["--config", str(file)])
    assert (config.source, config.target, config.to) == (Path("here"), Path("there"), "timm")
    file.write_text("source: photos\n")
    config = parse("explore", ["--config", str(file)])
    assert (config.model, config.source) == (parse("explore", []).model, "photos")
    file.write_text("batch_size: 4\n")
    config = parse("predict", ["photos", "--model", "mine", "--config", str(file)])
    assert (config.source, config.model, config.batch_size) == ("photos", "mine", 4)


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_file_changes_nothing(verb: str, tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("{}")
    needed = {"advise": "--task classify --images 3 --device cpu", "convert": "--to timm", "quantise": "--calibrate x"}
    places = [name for name, hint in get_type_hints(VERBS[verb].config, include_extras=True).items() if _placed(hint)]
    words = [*places, "--model", "m"] if verb in ("evaluate", "predict") else places
    words = [*([] if verb == "list" else words), *needed.get(verb, "").split()]
    assert parse(verb, [*words, "--config", str(tmp_path / "empty.yaml")]) == parse(verb, words)


def _placed(hint: object) -> bool:
    return get_origin(hint) is Annotated


def test_nothing_in_a_file_leaves_the_default_or_says_none_where_that_is_a_value(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("online:\nbatch_size:\nrandaugment:\nteacher:\n")
    config = parse("train", ["photos", "--config", str(file)])
    default = parse("train", ["photos"])
    assert default.randaugment == (2, 9) and config == replace(default, randaugment=None)
    file.write_text("source:\nmodel: mine\n")
    with pytest.raises(VitrailError, match=r"mine\.yaml: source needs a value"):
        parse("predict", ["--config", str(file)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("online: 'no'", "online: 'no' is not true or false"),
        ("epochs: many", "epochs: 'many' is not int"),
        ("epochs: true", "epochs: True is not int"),
        ("model: no", "model: False is not str"),
        ("epochs: [1, 2]", r"epochs: \[1, 2\] is not int"),
        ("betas: [0.9]", r"betas: \[0.9\] is not tuple\[float, float\]"),
        ("crop_scale: {low: 0.1}", r"crop_scale: .* is not tuple\[float, float\] \| None"),
        ("compare: [[a]]", r"compare: \[\['a'\]\] is not tuple\[str, ...\]"),
        ("tune: all", "tune: 'all' is not one of full, last, head, lora"),
    ],
)
def test_a_value_of_a_file_that_does_not_fit_is_named_with_its_option(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "mine.yaml").write_text(line)
    with pytest.raises(VitrailError, match=f"mine.yaml: {message}"):
        parse("train", ["photos", "--config", str(tmp_path / "mine.yaml")])
    assert capsys.readouterr() == ("", "")


def test_the_command_in_a_config_can_be_pasted_from_any_folder(tmp_path: Path):
    file = tmp_path / "it's a ü" / "config.yaml"
    file.parent.mkdir()
    config = TrainConfig(data="photos", epochs=3)
    write_config("train", config, file)
    command = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# Repeat with: ")
    vitrail, verb, *words = shlex.split(command)
    assert vitrail == "vitrail" and parse(verb, words) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--compare foo", "compare 'foo' is not of the form 'name=per cent=source'"),
        ("--compare CNN=188", "comparison values are in per cent, 0 to 100, not 188.0"),
        ("--compare CNN=nan", "comparison values are in per cent, 0 to 100, not nan"),
        ("--compare a=1 b=x=paper", "compare 'b=x=paper' is not of the form"),
        ("--lora-rank 0", "lora_rank must be at least 1, not 0"),
    ],
)
def test_what_training_could_not_use_is_refused_before_it_starts(words: str, message: str):
    with pytest.raises(VitrailError, match=message):
        parse("train", ["photos", *words.split()])


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


def test_names_in_a_listing_are_whole_where_another_program_reads_and_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    main(["list", "weights", "--match", "*dinov2*"])
    lines = capsys.readouterr().out.splitlines()
    names = [entry.name for entry in list_pretrained() if "dinov2" in entry.name]
    assert [line.split()[0] for line in lines] == ["name", *names] and "…" not in "".join(lines)
    assert all(line.endswith("Apache-2.0") for line in lines[1:])
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["list", "weights", "--match", "*dinov2*"])
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in names)
    assert max(len(line) for line in shown.splitlines()[1:]) <= 80


def test_a_listing_whose_reader_has_left_ends_without_a_traceback(tmp_path: Path):
    command = f"{sys.executable} -m vitrail list data | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in done.stderr


def test_results_that_cannot_be_written_are_an_error_in_one_line(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "vitrail", "list", "data"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "No space left" in done.stderr


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
