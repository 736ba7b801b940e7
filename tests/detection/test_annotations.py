"""COCO-format data: found by layout, checked in sentences, broken images by policy."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cskd_bench.detection.annotations import CocoSplit, broken_images, find_split
from cskd_bench.detection.checks import check_splits
from cskd_bench.detection.digits import make_digits, run_lengths
from cskd_bench.detection.facts import check_coco
from cskd_bench.detection.pictures import draw_pictures
from cskd_bench.detection.splits import open_splits
from cskd_bench.detection.usable import usable_split
from cskd_bench.errors import UserError
from cskd_bench.task import load_task


def coco_folder(root, split="train2017", images=3):
    """One class, one box per image, JPEGs of noise."""
    folder = root / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "cat"}]}
    for number in range(images):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 60, "height": 40})
        content["annotations"].append(
            {"id": number + 1, "image_id": number, "category_id": 7, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        )
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(content))
    return CocoSplit(file, folder)


def rewrite(split, change):
    content = json.loads(split.annotations.read_text())
    change(content)
    split.annotations.write_text(json.dumps(content))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-300])


def test_a_sound_data_set_has_no_problems(tmp_path):
    split = coco_folder(tmp_path)
    assert check_coco(split.annotations, split.images, masks=False) == []


@pytest.mark.parametrize(
    ("change", "severity", "sentence"),
    [
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "refuse", "gone.jpg: no such image in train2017/"),
        (lambda c: c["images"][0].update(width=61), "refuse", "0.jpg: is 60 x 40, the annotations say 61 x 40"),
        (
            lambda c: c["annotations"][1].update(bbox=[50, 5, 20, 20]),
            "note",
            "more than a pixel: 1 (the first: annotation 2, [50, 5, 20, 20] in 60 x 40)",
        ),
        (
            lambda c: c["annotations"][1].update(bbox=[5, 5, 0, 20], area=0),
            "note",
            "boxes under a pixel wide or high: 1",
        ),
        (lambda c: c["annotations"][1].update(bbox=[5, 5]), "refuse", "without a usable bbox: 1"),
        (lambda c: c["annotations"][1].update(ignore=1), "note", "annotations marked ignore: 1"),
        (lambda c: c["annotations"][1].update(image_id=99), "refuse", "annotations whose image_id is not listed: 1"),
        (lambda c: c["annotations"][1].update(category_id=8), "refuse", "(the first: annotation 2, 8)"),
        (lambda c: c["categories"].append({"id": 8, "name": "dog"}), "note", "without an object: 1 of 2 (dog)"),
        (lambda c: c["annotations"][1].pop("area"), "note", "area is missing, not above 0, or larger than the box: 1"),
        (lambda c: c["annotations"][1].update(area=1e6), "note", "(the first: annotation 2); taken from the mask"),
        (lambda c: c["annotations"][1].pop("iscrowd"), "note", "annotations whose iscrowd is not 0 or 1: 1"),
        (lambda c: c["annotations"][1].update(id="a1"), "note", 'ids that are not above 0: 1 (the first: "a1")'),
        (lambda c: c["annotations"][1].pop("id"), "note", "all are numbered 1 to 3 instead"),
        (lambda c: c["annotations"][1].update(id=-2), "note", "ids that are not above 0: 1 (the first: -2)"),
        (lambda c: c["annotations"][1].update(image_id=1.0), "note", "ids or sizes such as 3.0: 1"),
        (lambda c: c.pop("categories"), "refuse", "no list of categories"),
        (lambda c: c["categories"][0].update(name="\ud800"), "refuse", "an entry of categories has no usable name"),
        (lambda c: c["images"][0].update(file_name=7), "refuse", "an entry of images has no usable file_name"),
    ],
)
def test_every_kind_of_mistake_is_named_once(tmp_path, change, severity, sentence):
    split = coco_folder(tmp_path)
    rewrite(split, with_squares)
    rewrite(split, change)
    (problem,) = check_coco(split.annotations, split.images)
    assert problem.severity == severity and sentence in problem.sentence


def with_squares(content):
    """Give every object a mask."""
    for entry in content["annotations"]:
        entry["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]


def test_masks_are_noted_without_a_detector_and_left_alone_by_one_of_boxes(tmp_path):
    split = coco_folder(tmp_path)
    for masks, severities in ((None, ["note"]), (True, ["refuse"]), (False, [])):
        found = check_coco(split.annotations, split.images, masks=masks)
        assert [problem.severity for problem in found] == severities
        assert all("without a usable segmentation: 3 (the first: annotation 1" in one.sentence for one in found)


def test_what_opencv_reads_otherwise_than_pillow_is_named(tmp_path, monkeypatch):
    """Training reads with OpenCV: boxes that fit the one and not the other would lie beside their objects."""
    cv2 = pytest.importorskip("cv2")
    split = coco_folder(tmp_path, images=1)
    for found, said in (
        (np.zeros((60, 40, 3), np.uint8), "0.jpg: is 60 x 40, OpenCV reads 40 x 60"),
        (None, "0.jpg: cannot be decoded by OpenCV, which training reads with"),
    ):
        monkeypatch.setattr(cv2, "imread", lambda file, found=found: found)
        (problem,) = check_coco(split.annotations, split.images, masks=False)
        assert (problem.severity, problem.sentence) == ("refuse", said)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_photograph_is_turned_in_the_check_and_in_pictures(tmp_path, kind):
    split = coco_folder(tmp_path, images=1)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255  # the left half as it is stored, the upper half as it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(split.images / f"0.{kind}", exif=exif)
    rewrite(split, lambda c: c["images"][0].update(file_name=f"0.{kind}", width=40, height=60))
    rewrite(split, lambda c: c["annotations"][0].update(bbox=[5, 5, 20, 20]))
    assert check_coco(split.annotations, split.images, masks=False) == []
    (picture,) = draw_pictures(split, tmp_path / "none.json", 1)
    drawn = np.asarray(Image.open(io.BytesIO(picture)))
    height, width = drawn.shape[:2]
    assert (width - 4) // 2 < height
    assert drawn[5, width // 4 - 5 : width // 4 + 5].mean() > 200 > 50 > drawn[height - 5, 10:40].mean()


def test_a_truncated_jpeg_is_found(tmp_path):
    split = coco_folder(tmp_path)
    truncate(split.images / "1.jpg")
    (problem,) = check_coco(split.annotations, split.images, masks=False)
    assert problem.severity == "refuse"
    assert problem.sentence.startswith("1.jpg: cannot be decoded: image file is truncated")


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_every_image_that_training_could_not_decode_is_found(tmp_path, kind):
    """The reference is the decoder that training uses, on files damaged at random and at each byte of their end."""
    cv2 = pytest.importorskip("cv2", reason="the detection extra is not installed")
    rng = np.random.default_rng(0)
    sound = tmp_path / f"sound.{kind}"
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(sound)
    content = {"images": []}
    for number in range(150):
        data = bytearray(sound.read_bytes())
        first = int(rng.integers(len(data))) if number < 100 else len(data) + 99 - number
        data[first : first + 20] = rng.bytes(20) if number % 2 else b""
        (tmp_path / f"{number}.{kind}").write_bytes(data)
        content["images"].append({"file_name": f"{number}.{kind}", "width": 60, "height": 40})
    broken = broken_images(content, tmp_path)
    undecodable = {e["file_name"] for e in content["images"] if cv2.imread(str(tmp_path / e["file_name"])) is None}
    assert len(undecodable) > 10 and undecodable <= broken.keys()


def test_a_size_is_that_of_the_image_as_training_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (60, 40)).save(tmp_path / "upright.jpg", exif=exif)
    as_stored, as_seen = ({"file_name": "upright.jpg", "width": w, "height": h} for w, h in ((60, 40), (40, 60)))
    assert broken_images({"images": [as_seen]}, tmp_path) == {}
    assert broken_images({"images": [as_stored]}, tmp_path)["upright.jpg"].startswith("is 40 x 60, the annotations say")


def test_broken_images_fail_before_the_first_epoch_by_default(tmp_path):
    split = coco_folder(tmp_path)
    truncate(split.images / "1.jpg")
    with pytest.raises(UserError, match=r"1 of 3 images cannot be used: 1\.jpg.*--set data\.on_corrupt="):
        usable_split(split, tmp_path / "work", skip=False, cap=0)


def test_broken_images_are_left_out_up_to_a_cap(tmp_path):
    split = coco_folder(tmp_path)
    truncate(split.images / "1.jpg")
    usable, left_out = usable_split(split, tmp_path / "work", skip=True, cap=1)
    assert [entry["id"] for entry in usable.read()["images"]] == [0, 2]
    assert [entry["image_id"] for entry in usable.read()["annotations"]] == [0, 2]
    assert len(left_out) == 1 and len(split.read()["images"]) == 3  # the user's own file is untouched
    with pytest.raises(UserError, match=r"more than data\.max_skipped = 0"):
        usable_split(split, tmp_path / "work", skip=True, cap=0)


def test_a_sound_split_is_used_as_it_is(tmp_path):
    split = coco_folder(tmp_path)
    assert usable_split(split, tmp_path / "work", skip=False, cap=0) == (split, [])
    assert not (tmp_path / "work").exists()


def test_what_is_mended_is_read_rightly_from_a_file_of_its_own(tmp_path):
    """Ids from 0, no areas, other polygons beside a sound one, a name that is not ASCII."""
    split = coco_folder(tmp_path)
    rewrite(split, with_squares)

    def change(content):
        content["categories"][0]["name"] = "Kätzchen"
        for number, entry in enumerate(content["annotations"]):
            entry.update(id=number, area=[0, None, 9000][number])
        content["annotations"][1]["segmentation"] += [[], [1, 2, 3, 4]]
        content["annotations"][2]["segmentation"] = {"size": [40, 60], "counts": [45, 20, 2335]}

    rewrite(split, change)
    before = split.annotations.read_bytes()
    usable, left_out = usable_split(split, tmp_path / "work", skip=False, cap=0)
    assert left_out == [] and usable.images == split.images and usable.annotations.read_bytes().isascii()
    content = usable.read()
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3]
    assert [entry["area"] for entry in content["annotations"]] == [400, 400, 20]
    assert content["annotations"][1]["segmentation"] == [[5, 5, 25, 5, 25, 25, 5, 25]]
    assert content["categories"][0]["name"] == "Kätzchen" and split.annotations.read_bytes() == before


def test_a_split_that_loses_every_object_with_its_broken_images_is_refused(tmp_path):
    split = coco_folder(tmp_path)
    truncate(split.images / "1.jpg")
    rewrite(split, lambda content: content.update(annotations=content["annotations"][1:2]))
    with pytest.raises(UserError, match="no object is left without the images that cannot be used"):
        usable_split(split, tmp_path / "work", skip=True, cap=1)


def test_a_published_data_set_is_not_searched_for_images_in_both_splits(tmp_path):
    coco_folder(tmp_path, "train2017")
    coco_folder(tmp_path, "val2017")
    place = {"data.root": f'"{tmp_path}"', "data.train": '"train2017"', "data.test": '"val2017"'}
    boxes = ['detect.config="faster_rcnn_1x"', *(f"{key}={value}" for key, value in place.items())]
    with pytest.raises(UserError, match="3 images of test are also in train"):
        check(load_task("own_detection", None, boxes))
    published = load_task("coco", None, boxes[:1])
    data = published.data.model_copy(update={"root": str(tmp_path), "stands_for": "coco"})
    noted = check(published.model_copy(update={"data": data}))
    assert all("without a usable segmentation" in note for note in noted) and len(noted) == 2


def check(spec):
    return check_splits(spec, *open_splits(spec.data, Path("unused")), None)


def test_splits_are_found_by_name_or_by_beginning(tmp_path):
    coco_folder(tmp_path)
    assert find_split(tmp_path, "train2017") == find_split(tmp_path, "train")
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    assert find_split(tmp_path, "train").images == tmp_path / "images" / "train2017"


def test_a_missing_layout_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"expected annotations/instances_train\.json.*--data-dir"):
        find_split(tmp_path, "train")
    split = coco_folder(tmp_path)
    split.images.rename(tmp_path / "pictures")
    with pytest.raises(
        UserError, match="expected one of train2017/, train/, images/train2017/, images/train/, images/"
    ):
        find_split(tmp_path, "train")
    coco_folder(tmp_path, "train2014")
    with pytest.raises(UserError, match=r"found instances_train2014\.json, instances_train2017\.json"):
        find_split(tmp_path, "train")


def test_run_lengths_match_pycocotools():
    mask_tools = pytest.importorskip("pycocotools.mask", reason="the detection extra is not installed")
    rng = np.random.default_rng(0)
    for share in (0.0, 0.2, 0.8, 1.0):
        mask = rng.random((7, 5)) < share
        encoded = mask_tools.frPyObjects({"size": [7, 5], "counts": run_lengths(mask)}, 7, 5)
        assert np.array_equal(mask_tools.decode(encoded).astype(bool), mask)


def test_digits_are_sound_exact_and_the_same_for_the_same_seed(tmp_path):
    mask_tools = pytest.importorskip("pycocotools.mask", reason="the detection extra is not installed")
    first, again, other = (
        make_digits(tmp_path / name, seed=seed, train=6, val=3) for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (first / "train/0000.png").read_bytes() != (other / "train/0000.png").read_bytes()
    for split in ("train", "val"):
        found = find_split(first, split)
        problems = check_coco(found.annotations, found.images, masks=True)
        assert all("without an object" in one.sentence for one in problems)  # few images need not show every digit
        for annotation in found.read()["annotations"]:
            rle = annotation["segmentation"]
            mask = mask_tools.decode(mask_tools.frPyObjects(rle, *rle["size"]))
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert annotation["area"] == mask.sum()
