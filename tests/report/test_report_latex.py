"""The LaTeX is set by pdflatex in a two-column paper, whatever the names are, and nothing runs out of its column."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_primary import make_answers, make_primary
from report_synthetic import make_record, write_study

from cskd_bench.record import write_record
from cskd_bench.report.compare import compare
from cskd_bench.report.latex import latex
from cskd_bench.report.latex_text import breakable, latex_text
from cskd_bench.report.primary import GATES
from cskd_bench.report.selection import select

ROOT = Path(__file__).resolve().parents[2]
PAPER = r"""
\documentclass[10pt,twocolumn]{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx}
\usepackage[letterpaper,textwidth=6.875in,columnsep=0.375in,textheight=8.875in]{geometry}
\begin{document}
\typeout{columnwidth \the\columnwidth}
\input{leaderboard.tex}
\end{document}
"""
NASTY = [
    "\\input{/etc/passwd} $x$ %",
    "a_b^c~d#e%f&g{h}i$j\\k",
    "* starred [optional] <b>|",
    "\"quoted\" `ticked` 'primed'",
    "γ-CSKD (λ=½, Ωmega, Άλφα)",
    "蒸馏 学生 🙂🚀 한국어",
    "naïve Łódź Ångström Škoda ŉ ﬁne ＡＢ Ǻ",
    "עברית العربية ไทย",
    "averyveryveryveryverylongnamewithoutanyplacetobreakit" * 2,
    "a\u0301b\u200b\ufeff\u2028c",
]
needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def typeset(folder, comparison):
    """Return what pdflatex logs, with its lines joined; the paper must come out."""
    (folder / "leaderboard.tex").write_text(latex(comparison), encoding="utf-8")
    (folder / "paper.tex").write_text(PAPER, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    log = (folder / "paper.log").read_text("latin-1")
    assert done.returncode == 0, [line for line in log.splitlines() if line.startswith("!")]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return log


def check(log):
    (width,) = re.findall(r"columnwidth ([\d.]+)pt", log)
    assert float(width) == pytest.approx(3.25 * 72.27, abs=0.1)
    overfull = [float(excess) for excess in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt too", log)]
    assert [excess for excess in overfull if excess > 5] == []
    assert "Float too large" not in log and "undefined" not in log and "multiply defined" not in log
    assert "Missing character" not in log


@needs_pdflatex
@pytest.mark.parametrize("name", ["", "first_look"])
def test_the_committed_results_are_set_in_two_columns(tmp_path, name):
    folder = ROOT / "results" / name / "records"
    comparison = compare(folder, select(folder))
    comparison.primary = make_answers()
    check(typeset(tmp_path, comparison))


@needs_pdflatex
def test_nasty_names_and_many_rows_and_columns_are_set(tmp_path):
    for number, name in enumerate(NASTY):
        for label in ("deit", f"cskd {name}"):
            for seed in range(2):
                value = 0.5 + number / 100 + 0.01 * seed * (label != "deit")
                names = {"label": label, "model": f"vit {name}", "task": name, "pretrain_data": name, "teacher": name}
                write_record(
                    tmp_path / "records", make_record(**names, seed=seed, value=value, id=f"{number}{label[0]}{seed}")
                )
    many = {f"cskd (spatial_weight={weight})": 0.1 for weight in range(45)}
    tasks = [f"task_{letter}" for letter in "abcdefg"]
    write_study(tmp_path, skills={"cskd": 0.2, **many}, tasks=tasks, seeds=2, examples=30, side_files=False)
    comparison = compare(tmp_path / "records", select(tmp_path / "records"))
    comparison.primary = [make_primary(name=name, where=name, sentence=name, plan=name) for name in NASTY]
    check(typeset(tmp_path, comparison))
    assert len(comparison.tables) == len(NASTY) + 1


def test_the_primary_table_comes_first_in_the_width_of_a_column_and_every_table_has_its_label(tmp_path):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.5}, tasks=[f"task{n}" for n in range(7)])
    comparison = compare(tmp_path / "records", select(tmp_path / "records"))
    assert "No plan with primary contrasts" in latex(comparison)
    comparison.primary = make_answers()
    text = latex(comparison)
    floats = re.findall(r"\\begin\{(table\*?)\}.*?\\label\{([^}]+)\}.*?\\end\{\1\}", text, re.DOTALL)
    assert floats[0] == ("table", "tab:primary")
    labels = [label for _, label in floats]
    assert len(set(labels)) == len(labels) == text.count(r"\begin{table") == 1 + 2 + 3
    assert re.fullmatch(r"tab:classification-[0-9a-f]{6}", labels[1]) and labels[2] == f"{labels[1]}-2"
    first = text[: text.index(r"\end{table}")]
    for item in comparison.primary:
        assert breakable(item.name) in first
    assert latex_text(GATES["none"]) in text and latex_text(GATES["shut"]) not in text, "these tables have no plan"
    assert r"$\uparrow$" in first and "{[}+0.60, +5.30{]}" in first


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("naïve", r"na\"{i}ve"),
        ("Łódź", r"\L{}\'{o}d\'{z}"),
        ("γ Γ Α ς", r"$\gamma$ $\Gamma$ A $\sigma$"),
        ("Λ λ", r"$\Lambda$ $\lambda$"),
        ("学 🙂", "? ?"),
        ("ＡＢ＝ﬁ", "AB=fi"),
        ("a\u0301", r"\'{a}"),
        ("-2 × 3 → ±", r"-2 $\times$ 3 $\to$ $\pm$"),
        ("½", "1/2"),
    ],
)
def test_letters_that_pdflatex_lacks_are_written_readably(name, text):
    assert latex_text(name) == text


def test_long_names_may_break():
    assert breakable("deit_tiny") == r"deit\_\allowbreak{}tiny"
    assert breakable("a: b=3, (c)") == r"a: b=\allowbreak{}3, (\allowbreak{}c)", "no line begins with punctuation"
    assert breakable("Pretraining " + 25 * "a") == rf"Pretraining {20 * 'a'}\allowbreak{{}}{5 * 'a'}", (
        "words stay whole"
    )
