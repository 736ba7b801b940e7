"""Invented answers to primary contrasts, for tests of the formats."""

from typing import Any

from cskd_bench.report.tables import ContrastResult


def make_primary(**changes: Any) -> ContrastResult:
    """Return a primary result; `changes` name what a test cares about."""
    given = {
        **{"plan": "evidence_cpu", "name": "cskd − deit", "where": "imagenette128, pretrain", "baseline_kind": "deit"},
        **{"seeds": 5, "mean": 0.0294, "interval": (0.012, 0.047), "simultaneous": (0.006, 0.053)},
        **{"interval_kind": "seeds and test images", "p_value": 0.001, "adjusted": 0.004, "band": 0.005},
        **{"equivalence_adjusted": 0.98, "detectable": 0.018, "answer": "higher", "verdict": "higher"},
        **{"detail": "+2.94 points [+0.60, +5.30], 5 seeds.", "note": "Plan evidence_cpu, registered 2026-01-02."},
        **changes,
    }
    sentence = f"{given['name']} on {given['where']}: {given['verdict']}, {given['detail']}"
    return ContrastResult(**{"sentence": sentence, **given})


def make_answers() -> list[ContrastResult]:
    """Return one contrast of each answer, all of one plan."""
    equal = {"mean": 0.0004, "interval": (-0.003, 0.0035), "simultaneous": (-0.0045, 0.0049)}
    opened = {"mean": -0.006, "interval": (-0.021, 0.009), "simultaneous": (-0.028, 0.016)}
    lower = {"mean": -0.021, "interval": (-0.031, -0.011), "simultaneous": (-0.036, -0.006)}
    none = {"mean": None, "interval": None, "simultaneous": None, "p_value": None, "adjusted": None, "seeds": 0}
    return [
        make_primary(),
        make_primary(
            name="cskd − cskd (decay=local)",
            baseline_kind="cskd",
            **equal,
            adjusted=1.0,
            equivalence_adjusted=0.02,
            answer="equivalent",
            verdict="equal within ±0.5 points",
            detail="+0.04 points [−0.45, +0.49], 5 seeds.",
        ),
        make_primary(
            name="cskd − kd",
            baseline_kind="kd",
            **opened,
            adjusted=0.41,
            answer="open",
            verdict="not shown to differ, nor to be equal within ±0.5 points",
            detail="−0.60 points [−2.80, +1.60], 5 seeds. Detectable with 80 % power: 1.8 points.",
        ),
        make_primary(
            name="cskd − supervised",
            baseline_kind="supervised",
            where="cifar10_jpeg, kNN",
            **lower,
            answer="lower",
            verdict="lower",
            detail="−2.10 points [−3.60, −0.60], 5 seeds.",
        ),
        make_primary(
            name="cskd − deit",
            where="flowers102, linear probe",
            **none,
            answer="untested",
            verdict="not tested",
            detail="no seed is shared.",
        ),
    ]
