"""The speed that README and docs/speed.md state is what results/speed holds."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "results" / "speed"


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
    for side, name in named.items():
        cells = [f"{1000 * row[side]['median_seconds']:.0f} | {row[side]['speedup_over_plain']:.2f}x" for row in rows]
        assert f"| {name} | {' | '.join(cells)} |" in text, side


def test_the_table_of_a_small_teacher_rounds_its_record():
    text = (ROOT / "docs" / "speed.md").read_text()
    for row in measured("cpu_teacher_lite0")["sides"]:
        name = row["side"].replace("pieces", "in pieces")
        name = "batch norms folded" if name == "folded" else name
        assert f"| {name} | {1000 * row['median_seconds']:,.0f} | {row['speedup_over_as it is']:.2f}x |" in text, name


def test_every_record_was_made_from_a_commit():
    assert not any(measured(file.stem)["code"]["dirty"] for file in SPEED.glob("*.json"))
