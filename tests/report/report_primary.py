"""Invented answers to primary contrasts, for tests of the formats."""

from typing import Any

from cskd_bench.report.tables import ContrastResult


def make_primary(**changes: Any) -> ContrastResult:
    """Return a primary result; `changes` name what a test cares about."""
    given = {
        **{"plan": "evidence_cpu", "name": "cskd − deit", "where": "imagenette128, pretrain", "baseline_kind": "deit"},
        **{"seeds": 5, "mean": 0.0294, "interval": (0.012, 0.047), "simultaneous": (0.006, 0.053)},
        **{"interval_kind": "seeds and test images", "p_value": 0.001, "adjusted": 0.004, "band": 0.005},
        **{"equivalence_adjusted": 0.98, "detectable": 0.018, "answer": "higher"},
        "sentence": "cskd is higher than deit on imagenette128 (pretrain): +2.94 points, simultaneous interval +0.60 "
        "to +5.30, p = 0.004 over 4 contrasts, 5 seeds.",
        **changes,
    }
    return ContrastResult(**given)


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
            sentence="cskd and cskd (decay=local) are equal within 0.50 points on imagenette128 (pretrain): "
            "+0.04 points, simultaneous interval −0.45 to +0.49, p = 0.020 over 4 contrasts, 5 seeds.",
        ),
        make_primary(
            name="cskd − kd",
            baseline_kind="kd",
            **opened,
            adjusted=0.41,
            answer="open",
            sentence="Whether cskd is better or worse than kd on imagenette128 (pretrain) is not shown: −0.60 points, "
            "simultaneous interval −2.80 to +1.60, 5 seeds; 1.8 points would be found with 80 % probability.",
        ),
        make_primary(
            name="cskd − supervised",
            baseline_kind="supervised",
            where="cifar10_jpeg, kNN",
            **lower,
            answer="lower",
            sentence="cskd is lower than supervised on cifar10_jpeg (kNN): −2.10 points, simultaneous interval −3.60 "
            "to −0.60, p = 0.009 over 4 contrasts, 5 seeds.",
        ),
        make_primary(
            name="cskd − deit",
            where="flowers102, linear probe",
            **none,
            answer="untested",
            sentence="cskd and deit share no seed on flowers102 (linear probe), so nothing is tested.",
        ),
    ]
