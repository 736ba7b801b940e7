"""docs/methods.md says what the settings classes say; `python tests/test_methods_page.py` writes its table again."""

import json
import re
from pathlib import Path

import pytest
import torch

from cskd_bench.config import PlainKD
from cskd_bench.method_facts import describe_method
from cskd_bench.method_registry import PRESETS
from cskd_bench.methods import METHODS, kd
from cskd_bench.outputs import StudentOutput, Targets

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
BEGIN = "<!-- methods:begin (written by python tests/test_methods_page.py) -->\n"
END = "<!-- methods:end -->\n"
NOT_MEASURED = "not measured"


def step_costs():
    """Return what a step of each method costs, from the last record of `speed --part step --methods`."""
    costs = {}
    for file in sorted((ROOT / "results" / "speed").glob("*_methods_*.json")):
        for row in json.loads(file.read_text())["sides"]:
            costs.setdefault(row["method"], {})[row["labels_from"]] = row["times_supervised"]
    return costs


def cost_words(costs):
    words = {"none": "1", "teacher": "{:.2f} with the teacher", "bank": "{:.2f} from a bank"}
    return ", ".join(words[source].format(times) for source, times in costs.items()) or NOT_MEASURED


def bank_words(bank):
    if bank["reason"]:
        return f"no: {bank['reason']}" + "".join(f"; yes with `{one['set']}`" for one in bank["except"])
    return f"yes, {bank['labels']} labels" + "".join(f"; not with `{one['set']}`" for one in bank["except"])


def generated(costs):
    """Return the tables of all methods and presets, and the list of equations."""
    told = [describe_method(objective.settings) for objective in METHODS.values()]
    lines = ["| method | needs | a bank serves it | step cost | source |", "|---|---|---|---|---|"]
    for one in told:
        cells = [f"`{one['name']}`", ", ".join(one["needs"]) or "no teacher", bank_words(one["bank"])]
        lines.append(f"| {' | '.join([*cells, cost_words(costs.get(one['name'], {})), one['source']])} |")
    lines += ["", "| preset | settings | step cost |", "|---|---|---|"]
    for name, settings in PRESETS.items():
        changes = ", ".join(f"`method.{key}={value}`" for key, value in settings.items() if key != "kind")
        lines.append(f"| `{name}` | `{settings['kind']}` with {changes} | {cost_words(costs.get(name, {}))} |")
    lines += ["", "## Equations", ""]
    for one in told:
        lines.append(f"- `{one['name']}`: `{one['equation']}`")
        lines += [f"    - `{row['where']}` ({row['source']}): `{row['equation']}`" for row in one["variants"]]
    return "\n".join(lines) + "\n"


def written():
    """Return the page with its generated part written again."""
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    return text.partition(BEGIN)[0] + BEGIN + generated(step_costs()) + END + text.partition(END)[2]


def test_the_page_is_what_the_settings_and_records_say():
    assert PAGE.read_text() == written(), "run: python tests/test_methods_page.py"
    assert all(f"| `{name}` |" in PAGE.read_text() and f"\n- `{name}`: " in PAGE.read_text() for name in METHODS)


def test_a_method_without_a_record_is_not_measured():
    text = generated({"kd": {"teacher": 4.5, "bank": 1.0321}})
    assert "| 4.50 with the teacher, 1.03 from a bank |" in text
    assert text.count(f"| {NOT_MEASURED} |") == len(METHODS) - 1 + len(PRESETS)


def test_what_the_page_says_of_an_orthogonal_projection_is_measured():
    """What vkd's step takes beyond that of kd, which runs the same teacher and student."""
    record = json.loads((ROOT / "results" / "speed" / "cpu_methods_deit_tiny_regnety_160.json").read_text())
    seconds = {row["side"]: row["median_seconds"] for row in record["sides"]}
    assert record["what"] == "deit_tiny_patch16_224 with regnety_160, 224 px, batch 8, fp32"
    assert 1 - seconds["kd, teacher"] / seconds["vkd, teacher"] < 0.1
    assert "In that record this is less than a tenth of the step." in PAGE.read_text()


def value_and_slope(config, scale):
    """Return (teacher's term against the labels' in value over KL, in the gradient's length) of some logits."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(8, 10, generator=draw, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    labels = torch.full((8, 10), 0.1, dtype=torch.float64)
    found = kd.losses(config, StudentOutput(student), Targets(teacher), labels)
    t = config.temperature
    p, q = (teacher / t).log_softmax(1), (student / t).log_softmax(1)
    kl = (p.exp() * (p - q)).sum(1).mean()
    term = (found["total"] - (1 - config.alpha) * found["label"]) / (1 - config.alpha)
    (slope,) = torch.autograd.grad(term, student)
    return (term / kl).item(), slope.norm().item()


def test_mdistillers_weights_are_144_times_deits():
    """Values are 81 * 16/9 apart; gradients of small logits only 81."""
    deit, mdistiller = PlainKD(), PlainKD(alpha=0.9, temperature=4.0)
    (value, slope), (other, steeper) = (value_and_slope(config, 1e-4) for config in (deit, mdistiller))
    assert value == pytest.approx(1.0) and other == pytest.approx(144.0)
    assert other / value == pytest.approx(81 * 16 / 9)
    assert steeper / slope == pytest.approx(81, rel=1e-3)
    page = " ".join(PAGE.read_text().split())
    assert "0.1 x 9 / 0.9 = 1 |" in page and "0.9 x 16 / 0.1 = 144 |" in page
    assert "144 times as much: 81 by the weights, 16/9 by T^2" in page


def test_every_departure_names_its_repository():
    part = PAGE.read_text().partition("## Where official code differs from its paper")[2]
    sections = {text.partition("\n")[0]: text for text in re.split(r"\n### ", part)[1:]}
    first = {title: re.search(r"`([\w-]+/[\w.-]+)`", text)[1] for title, text in sections.items()}
    assert first == {
        "Plain KD": "megvii-research/mdistiller",
        "Logit standardisation": "sunshangquan/logit-standardization-KD",
        "NKD": "yzd-v/cls_KD",
        "DKD": "Hao840/OFAKD",
        "DIST": "hunto/image_classification_sota",
        "VkD": "roymiles/VkD",
        "SRD": "roymiles/Simple-Recipe-Distillation",
        "Locality guidance": "lkhl/tiny-transformers",
    }
    assert all(re.search(r"`[\w/]*\w+\.(py|md)`|`configs/", text) for text in sections.values())


if __name__ == "__main__":
    PAGE.write_text(written())
