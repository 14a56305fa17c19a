"""``vitrail predict`` with SAM: prompts, everything, drawings; the generator against the authors' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests.models.peers_sam import authors_sam, load_sam, save_pth
from vitrail.cli import main
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, read_picture, to_picture
from vitrail.engine import Precision
from vitrail.jobs.inference import Hardware
from vitrail.jobs.mask_generator import (
    Found,
    GeneratorSettings,
    crop_boxes,
    cut_off,
    generate_masks,
    point_grid,
    stability,
    tidy,
    without_small_regions,
)
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.prompts import read_prompts
from vitrail.jobs.segmenter import Segmenter
from vitrail.weights import load_checkpoint

pytest.importorskip("segment_anything")
skimage_data = pytest.importorskip("skimage.data")

CPU = Hardware(torch.device("cpu"), Precision("fp32", "asked"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' file of a tiny model whose masks and qualities vary."""
    return save_pth(tuned(), tmp_path_factory.mktemp("sam") / "sam.pth")


def tuned() -> torch.nn.Module:
    """Random weights, but logits large enough for masks to be stable, and qualities on both sides of zero."""
    theirs = authors_sam()
    with torch.no_grad():
        for mlp in theirs.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[2].weight.mul_(40)
            mlp.layers[2].bias.mul_(40)
        theirs.mask_decoder.iou_prediction_head.layers[2].bias.fill_(0.5)
    return theirs.eval()


def resize_alike(predictor: object, step: Preprocess) -> None:
    """Theirs resizes with Pillow, whose rounding differs by a level: both get the same pixels."""

    def resize(array: np.ndarray) -> np.ndarray:
        return np.asarray(to_picture(step.fit(step.pixels(Image.fromarray(array)))))

    predictor.transform.apply_image = resize


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(skimage_data.chelsea()).resize((90, 60)).save(path)
    return path


def ask(weights: Path, photo: Path, out: Path, **options: object) -> list[dict]:
    values = {"device": "cpu", "precision": "fp32", "out": out, "draw": out / "drawn", **options}
    return predict(PredictConfig(source=str(photo), model=str(weights), **values))


def test_a_click_gives_three_masks_best_first(weights: Path, photo: Path, tmp_path: Path) -> None:
    rows = ask(weights, photo, tmp_path / "out", points=("40,20",))
    assert len(rows) == 3 and [row["prompt"] for row in rows] == [0, 0, 0]
    assert [row["quality"] for row in rows] == sorted((row["quality"] for row in rows), reverse=True)
    stored = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()]
    assert stored == rows
    for row in rows:
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"])) > 0
        assert mask.shape == (60, 90) and mask.sum() == row["area"]
        if row["area"]:
            ys, xs = mask.nonzero()
            assert row["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    drawn = read_picture(tmp_path / "out" / "drawn" / "cat.png")
    assert drawn.size == (90, 60) and np.asarray(drawn)[20, 40].tolist() == [0, 255, 0]


def test_the_answer_equals_the_authors_predictor(weights: Path, photo: Path, tmp_path: Path) -> None:
    from segment_anything import SamPredictor

    predictor = SamPredictor(tuned())
    step = load_checkpoint(weights).preprocess
    image = np.asarray(read_picture(photo))
    resize_alike(predictor, step)
    predictor.set_image(image)
    points, labels, box = np.array([[40, 20], [10, 50]]), np.array([1, 0]), np.array([5, 8, 80, 55])
    masks, quality, _ = predictor.predict(points, labels, box, multimask_output=False)
    rows = ask(weights, photo, tmp_path / "out", points=("40,20", "10,50"), point_labels=(1, 0), boxes=("5,8,80,55",))
    assert len(rows) == 1
    assert rows[0]["quality"] == pytest.approx(float(quality[0]), abs=1e-4)
    ours = np.asarray(Image.open(tmp_path / "out" / rows[0]["mask"])) > 0
    assert (ours != masks[0]).sum() <= 2


def test_boxes_are_objects_and_a_mask_refines(weights: Path, photo: Path, tmp_path: Path) -> None:
    rows = ask(weights, photo, tmp_path / "two", boxes=("5,8,80,55", "1,1,30,30"))
    assert [row["prompt"] for row in rows] == [0, 1]
    alone = ask(weights, photo, tmp_path / "one", boxes=("1,1,30,30",))
    assert alone[0]["quality"] == pytest.approx(rows[1]["quality"], abs=1e-5)
    rough = tmp_path / "two" / rows[0]["mask"]
    refined = ask(weights, photo, tmp_path / "refined", mask_in=rough)
    assert len(refined) == 1
    blank = tmp_path / "blank.png"
    Image.new("L", (90, 60)).save(blank)
    other = ask(weights, photo, tmp_path / "blank", mask_in=blank)
    assert abs(other[0]["quality"] - refined[0]["quality"]) > 1e-4


def test_the_command_line_segments_a_folder_of_photographs(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for path, make in ((folder / "a.png", skimage_data.coffee), (folder / "more" / "a.png", skimage_data.rocket)):
        Image.fromarray(make()).resize((60, 45)).save(path)
    out = tmp_path / "out"
    options = ["--points", "30,20", "--point_labels", "1", "--device", "cpu", "--precision", "fp32"]
    main(["predict", str(folder), "--model", str(weights), *options, "--draw", str(out), "--out", str(out)])
    rows = [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]
    assert [row["mask"].split("/")[0] for row in rows] == ["a"] * 3 + ["a-2"] * 3
    assert (out / "a.png").is_file() and (out / "a-2.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": ("40",)}, "points: 2 numbers"),
        ({"points": ("1,2,3,4",)}, "points: 2 numbers"),
        ({"points": ("nan,2",)}, "points: 2 numbers"),
        ({"top": 3}, "classifiers and image-text models take --top"),
        ({"boxes": ("1,2,3,x",)}, "boxes: 4 numbers"),
        ({"boxes": ("9,2,3,8",)}, "X0 < X1"),
        ({"points": ("1,2",), "point_labels": (1, 0)}, "2 labels for 1 points"),
        ({"points": ("1,2",), "point_labels": (2,)}, "must be 1"),
        ({"points": ("1,2",), "boxes": ("1,2,3,4", "2,3,4,5")}, "one box at most"),
        ({"points": ("100,20",)}, "cat.png: points lie outside its 90x60 pixels"),
        ({"out": Path("masks.csv")}, "leave .csv away"),
        ({"points_per_side": 0}, "points_per_side must be at least 1"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    options: dict[str, object], message: str, weights: Path, photo: Path, tmp_path: Path
) -> None:
    with pytest.raises(VitrailError, match=message):
        ask(weights, photo, **{"out": tmp_path / "out", **options})


def test_broken_pictures_and_names_that_no_table_holds(weights: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "\udcff.png").write_bytes(photo.read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    options = {"points": ("40,20",), "on_error": "skip"}
    rows = ask(weights, folder, tmp_path / "out", **options)
    assert {row["name"] for row in rows} == {f"{folder}/\\udcff.png"}
    assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows)
    with pytest.raises(VitrailError, match="every picture was broken"):
        ask(weights, folder / "broken.png", tmp_path / "none", **options)


def test_no_picture_s_masks_take_the_place_of_another_s(weights: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a-2.png", "y/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).save(tmp_path / "in" / name)
    rows = ask(weights, tmp_path / "in", tmp_path / "out", boxes=("10,10,40,40",))
    assert [row["mask"] for row in rows] == ["a/0000.png", "a-2/0000.png", "a-3/0000.png"]
    assert {path.name for path in (tmp_path / "out" / "drawn").iterdir()} == {"a.png", "a-2.png", "a-3.png"}


def test_a_mask_of_another_size_is_refused(weights: Path, photo: Path, tmp_path: Path) -> None:
    Image.new("L", (30, 60)).save(tmp_path / "mask.png")
    with pytest.raises(VitrailError, match="is 90x60, but the mask 30x60"):
        ask(weights, photo, tmp_path / "out", mask_in=tmp_path / "mask.png")


def test_labels_are_one_when_left_out() -> None:
    prompts = read_prompts(PredictConfig(source="", model="", points=("1,2", "3,4.5")))
    assert prompts.labels.tolist() == [[1, 1]] and prompts.points.tolist() == [[[1, 2], [3, 4.5]]]
    assert not prompts.ambiguous and not prompts.empty
    assert read_prompts(PredictConfig(source="", model="")).empty


def test_everything_is_asked_for_when_nothing_is(weights: Path, photo: Path, tmp_path: Path) -> None:
    options = {"points_per_side": 4, "mask_quality": -100.0, "mask_stability": 0.5, "batch_size": 5}
    rows = ask(weights, photo, tmp_path / "out", **options)
    assert rows and all(row["stability"] >= 0.5 and len(row["point"]) == 2 for row in rows)
    assert [row["quality"] for row in rows] == sorted((row["quality"] for row in rows), reverse=True)
    assert (tmp_path / "out" / "drawn" / "cat.png").is_file()


def test_a_picture_in_which_nothing_is_good_enough_has_no_masks(weights: Path, photo: Path, tmp_path: Path) -> None:
    assert ask(weights, photo, tmp_path / "out", points_per_side=3, mask_quality=1e9) == []
    assert (tmp_path / "out" / "masks.jsonl").read_text() == ""
    drawn = read_picture(tmp_path / "out" / "drawn" / "cat.png")
    assert np.array_equal(np.asarray(drawn), np.asarray(read_picture(photo)))


def test_prompts_are_told_apart_by_every_pixel_of_their_mask(tmp_path: Path) -> None:
    pixels = np.zeros((60, 90), dtype=np.uint8)
    digests = []
    for value in (0, 255):
        pixels[30, 40] = value
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        config = PredictConfig(source="", model="", mask_in=tmp_path / "mask.png")
        digests.append(read_prompts(config).mask_digest)
    assert digests[0] != digests[1] and read_prompts(PredictConfig(source="", model="")).mask_digest == ""


def assert_found(found: Found, expected: list[dict]) -> None:
    assert len(expected) >= 8, "an oracle that finds nothing proves nothing"
    assert len(found) == len(expected)
    for number, record in enumerate(expected):
        assert (found.mask(number) != record["segmentation"]).sum() <= 2
        x, y, width, height = record["bbox"]
        assert np.abs(found.boxes[number].numpy() - [x, y, x + width, y + height]).max() <= 1
        assert float(found.quality[number]) == pytest.approx(record["predicted_iou"], abs=1e-4)
        assert float(found.stability[number]) == pytest.approx(record["stability_score"], abs=2e-3)
        assert found.points[number].tolist() == pytest.approx(record["point_coords"][0], abs=1e-3)
        x, y, width, height = record["crop_box"]
        assert found.crops[number].tolist() == [x, y, x + width, y + height]


def test_the_generator_finds_what_the_authors_finds(weights: Path, photo: Path) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    model, step, picture = load_sam(weights), load_checkpoint(weights).preprocess, read_picture(photo)
    # Random masks spread over all of the picture: their boxes would leave one, so none is dropped for overlap.
    settings = GeneratorSettings(points_per_side=6, batch=7, quality=0.3, stability=0.8, overlap=1.0)
    found = generate_masks(lambda part: Segmenter(model, step, CPU, part), picture, settings)
    theirs = SamAutomaticMaskGenerator(
        tuned(),
        points_per_side=6,
        points_per_batch=7,
        pred_iou_thresh=0.3,
        stability_score_thresh=0.8,
        box_nms_thresh=1.0,
    )
    resize_alike(theirs.predictor, step)
    assert_found(found, theirs.generate(np.asarray(picture)))


def discs(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Three discs about every click ``(P, 2)`` on the coarse grid, of a size and quality that follow from the place."""
    middles = torch.arange(16) * 4.0 + 2
    rows, columns = torch.meshgrid(middles, middles, indexing="ij")
    far = ((columns - points[:, 0, None, None]) ** 2 + (rows - points[:, 1, None, None]) ** 2).sqrt()
    radius = torch.tensor([5.0, 9.0, 14.0]) + 3 * torch.sin(points.sum(dim=1, keepdim=True))
    steep = 0.5 + torch.cos(points[:, :1] / 7).abs()
    quality = 0.7 + 0.3 * torch.sin(points[:, :1] * torch.tensor([0.31, 0.17, 0.23]) + points[:, 1:] * 0.37)
    return (radius[:, :, None, None] - far[:, None]) * steep[..., None, None], quality


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_of_overlapping_masks_and_crops_the_authors_keep_the_same(layers: int, weights: Path) -> None:
    """Discs about the clicks instead of the decoder's answers: masks that overlap, are cut off, and repeat in crops."""
    from segment_anything import SamAutomaticMaskGenerator

    model, step = load_sam(weights), load_checkpoint(weights).preprocess
    picture = Image.fromarray(skimage_data.chelsea()).resize((450, 300))
    theirs = tuned()
    theirs.prompt_encoder.forward = lambda points, boxes, masks: (points[0][:, 0].float(), None)
    theirs.mask_decoder.forward = lambda sparse_prompt_embeddings, **others: discs(sparse_prompt_embeddings)
    model.decode = lambda embedding, points, *others: tuple(part[None] for part in discs(points[0, :, 0]))
    settings = GeneratorSettings(
        points_per_side=8, batch=10, quality=0.6, stability=0.7, overlap=0.4, crop_layers=layers, crop_overlap=0.5
    )
    found = generate_masks(lambda part: Segmenter(model, step, CPU, part), picture, settings)
    generator = SamAutomaticMaskGenerator(
        theirs,
        points_per_side=8,
        points_per_batch=10,
        pred_iou_thresh=0.6,
        stability_score_thresh=0.7,
        box_nms_thresh=0.4,
        crop_n_layers=layers,
        crop_nms_thresh=0.5,
    )
    resize_alike(generator.predictor, step)
    expected = generator.generate(np.asarray(picture))
    assert_found(found, expected)
    assert len(expected) < 3 * 64
    assert len({tuple(record["crop_box"]) for record in expected}) > 4 * layers


def test_parts_of_the_generator_equal_the_authors() -> None:
    from segment_anything.utils import amg

    assert np.allclose(point_grid(5).numpy(), amg.build_point_grid(5))
    for size in ((60, 90), (900, 601)):
        boxes, _ = amg.generate_crop_boxes(size, 2, 512 / 1500)
        assert [list(box) for box in crop_boxes(size, 2)] == boxes
    logits = 3 * torch.randn(4, 30, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stability(logits, 1.0), amg.calculate_stability_score(logits, 0.0, 1.0))
    assert stability(torch.full((1, 3, 3), -9.0), 1.0).tolist() == [0.0]
    inside = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) * 100
    crop, whole = (20, 30, 120, 130), (0, 0, 300, 140)
    expected = amg.is_box_near_crop_edge(inside, list(crop), list(whole))
    assert torch.equal(cut_off(inside + torch.tensor([20, 30, 20, 30]), crop, whole), expected)
    assert 0 < expected.sum() < 40


def test_small_islands_and_holes_go_and_the_largest_island_stays() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:12, 2:12] = True
    mask[5:7, 5:7] = False
    mask[15:17, 20:23] = True
    mask[17, 23] = True  # Joined to it by a corner.
    clean = without_small_regions(mask, 7)
    assert clean[5:7, 5:7].all() and clean[17, 23] and clean.sum() == 107
    assert without_small_regions(mask, 8)[12:].sum() == 0
    assert np.array_equal(without_small_regions(mask, 4), mask)
    only = without_small_regions(mask, 10_000)
    assert only[2:12, 2:12].all() and only.sum() == 600
    tiny = np.zeros((20, 30), dtype=bool)
    tiny[3, 3], tiny[8, 8:10] = True, True
    small = np.pad(tiny, 200)
    assert without_small_regions(small, 50).sum() == 2
    assert ndimage.label(without_small_regions(small, 50))[1] == 1


def test_masks_that_become_alike_are_one_and_the_untouched_one_stays() -> None:
    plain = np.zeros((20, 30), dtype=bool)
    plain[2:12, 2:12] = True
    dotted = plain.copy()
    dotted[15, 20] = True
    ones = torch.ones(2)
    found = Found(
        (20, 30),
        [np.packbits(dotted), np.packbits(plain)],
        torch.zeros(2, 4),
        torch.tensor([0.9, 0.8]),
        ones,
        torch.zeros(2, 2),
        torch.zeros(2, 4, dtype=torch.int64),
    )
    kept = tidy(found, GeneratorSettings(min_region=5))
    assert len(kept) == 1 and float(kept.quality) == pytest.approx(0.8) and np.array_equal(kept.mask(0), plain)
