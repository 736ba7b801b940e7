"""The speed that README and docs/speed.md state is what results/speed holds."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "results" / "speed"
PRECISION = ROOT / "results" / "precision"


def measured(name: str) -> dict:
    return json.loads((SPEED / f"{name}.json").read_text())


def test_readme_rounds_its_records():
    readme = (ROOT / "README.md").read_text()
    fp32, bf16 = measured("cpu_step_deit_tiny_regnety_160"), measured("cpu_step_deit_tiny_regnety_160_bf16")
    bank = next(row["speedup_over_plain"] for row in fp32["sides"] if row["side"] == "ours, bank")
    tensor = next(row for row in measured("cpu_data")["worker"] if row["side"] == "ours, tensor engine")
    data = next(value for key, value in tensor.items() if key.startswith("speedup_over_"))
    assert f"({bank:.1f}x, {fp32['bank_over_student_alone']:.2f} times the student alone)" in readme
    assert f"trains at {bf16['timm_over_ours_student_alone']:.2f} times" in readme
    assert f"views are cut at {data:.1f} times" in readme


def test_the_table_of_steps_rounds_its_records():
    named = {
        "plain": "plain",
        "timm": "timm TokenDistillationTask",
        "timm, student alone": "timm ClassificationTask, the student alone",
        "student alone": "student alone",
        "ours, teacher": "ours, teacher",
        "ours, bank": "ours, bank",
    }
    rows = [
        {row["side"]: row for row in measured(f"cpu_step_deit_tiny_regnety_160{precision}")["sides"]}
        for precision in ("", "_bf16")
    ]
    text = re.sub(r"(?<=\d),(?=\d{3})", "", (ROOT / "docs" / "speed.md").read_text())
    assert rows[0].keys() == rows[1].keys() == named.keys()
    for side, name in named.items():
        cells = [f"{1000 * row[side]['median_seconds']:.0f} | {row[side]['speedup_over_plain']:.2f}x" for row in rows]
        assert f"| {name} | {' | '.join(cells)} |" in text, side


def test_the_table_of_a_small_teacher_rounds_its_record():
    text = (ROOT / "docs" / "speed.md").read_text()
    rows = measured("cpu_teacher_lite0")["sides"]
    assert len(rows) > 2
    for row in rows:
        name = row["side"].replace("pieces", "in pieces")
        name = "batch norms folded" if name == "folded" else name
        assert f"| {name} | {1000 * row['median_seconds']:,.0f} | {row['speedup_over_as it is']:.2f}x |" in text, name


def test_the_tables_of_the_host_path_round_their_records():
    found, text = measured("cpu_host"), (ROOT / "docs" / "speed.md").read_text()
    best = found["best_milliseconds"]
    for label, side in (
        ("ours", "ours"),
        ("timm: RandomErasing", "timm"),
        ("the release before: boxes", "the release before"),
    ):
        assert re.search(rf"^\| {label}.*\| {best[side]:.1f} \|$", text, re.MULTILINE), side
    seconds = {row["side"]: row["median_seconds"] for row in found["evaluation"]}
    forward = seconds["forwards, raw + EMA"]
    sides = {
        "one pass, from the views": "later evaluation, kept views",
        "one pass that decodes": "first evaluation",
        "a pass for each that decodes": "a pass for each, decoded",
        "timm: a pass for each": "timm, a pass for each",
    }
    for label, side in sides.items():
        ratio = seconds[side] / forward
        assert re.search(rf"^\| {label}.*\| {ratio:.2f} \|$", text, re.MULTILINE), (side, ratio)
    listing = found["listing"]
    files, samples = listing["seconds_per_million_files"], listing["seconds_per_million_samples"]
    assert f"| class folders | {files['first']:.1f} | {files['index']:.2f} |" in text
    assert f"| WebDataset tars | {samples['first']:.1f} | {samples['index']:.2f} |" in text
    assert f"million files take {listing['megabytes_per_million_files']:.0f} MB" in text
    step = measured("cpu_step_host_path")["bank_over_student_alone"]
    assert f"a bank takes {step:.2f} times the student alone" in text


def test_every_record_was_made_from_a_commit():
    files = [*SPEED.glob("*.json"), *PRECISION.glob("*.json")]
    assert len(files) > 5
    assert not any(json.loads(file.read_text())["code"]["dirty"] for file in files)


def test_the_table_of_precisions_rounds_its_records():
    text = (ROOT / "docs" / "speed.md").read_text()
    found = [json.loads(file.read_text()) for file in PRECISION.glob("*.json")]
    assert len(found) == 3
    for record in found:
        views = f"{record['views']:,} views: fp32 | 0 | 0 | {record['precisions'][0]['views_per_second']:.1f} |\n"
        rows = "".join(
            f"| the same in {row['precision']} | {row['fused_flips']:.2%} | {row['global_flips']:.2%} | "
            f"{row['views_per_second']:.1f} |\n".replace("%", " %")
            for row in record["precisions"][1:]
        )
        assert views + rows in text, record["what"]


def test_what_texts_say_of_flips_is_measured():
    lite0 = json.loads((PRECISION / "cpu_lite0_imagenet_sample1000.json").read_text())
    flips = {row["precision"]: 100 * row["fused_flips"] for row in lite0["precisions"]}
    for page in ("bank", "pretraining", "decisions"):
        text = " ".join((ROOT / "docs" / f"{page}.md").read_text().split())
        assert f"bf16 flips {flips['bf16']:.1f} % of" in text or f"bf16 {flips['bf16']:.1f} % of" in text, page
        assert f"fp16 {flips['fp16']:.1f} %" in text, page


def test_the_table_of_a_start_on_coco_rounds_its_record():
    text = (ROOT / "docs" / "speed.md").read_text()
    rows = measured("cpu_coco_start")["sides"]
    assert len(rows) == 5
    for row in rows:
        time = f"{row['median_seconds']:.1f} | {row['times_pycocotools']:.2f}"
        memory = f"{row['megabytes'] / 1000:.2f} | {row['memory_times_pycocotools']:.2f}"
        assert f"| {row['side']} | {time} | {memory} |" in text, row["side"]
