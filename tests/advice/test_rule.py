"""The gate and the rule: each condition alone, at its limit, and where something is not measured."""

import pytest

from cskd_bench.advice.gate import Gate
from cskd_bench.advice.settings import MeasuredSetting, TeacherStrength, expect

OPEN, SHUT = Gate(validation=0.5, training=0.65, seeds=1), Gate(validation=0.5, training=0.6, seeds=1)
STRONG, WEAK = (TeacherStrength(global_top1=share, local_top1=0.4) for share in (0.9, 0.5))


def setting(**changes):
    plain = {"results": "results", "title": "a student", "student": "s", "pretrain_data": "d", "pretrain_recipe": "r"}
    plain |= {"epochs": 5, "teacher": "t", "gate": OPEN, "strength": STRONG, "difference": 0.02, "seeds": 3}
    return MeasuredSetting(**plain | {"interval": (0.01, 0.03), "kept_out": False} | changes)


@pytest.mark.parametrize(
    ("training", "control", "is_open"),
    [
        (0.65, None, True),  # 15 points better on training images
        (0.6499, None, False),
        (0.6499, 0.02, True),  # the control gains 2 points
        (0.6499, 0.0199, False),
        (None, 0.02, True),
        (None, 0.0199, None),
        (None, None, None),
    ],
)
def test_either_condition_opens_the_gate(training, control, is_open):
    assert Gate(validation=0.5, training=training, control=control).is_open is is_open


@pytest.mark.parametrize(
    ("gate", "strength", "expected"),
    [
        (OPEN, STRONG, "gain"),
        (OPEN, WEAK, "no gain"),  # right as often as the student without it: no more
        (OPEN, None, "unknown"),
        (SHUT, STRONG, "no gain"),
        (SHUT, None, "no gain"),
        (Gate(), STRONG, "unknown"),
        (Gate(), None, "unknown"),
    ],
)
def test_a_gain_needs_an_open_gate_and_a_stronger_teacher(gate, strength, expected):
    assert expect(gate, strength) == expected


@pytest.mark.parametrize(
    ("gate", "interval", "verdict"),
    [
        (OPEN, (0.01, 0.03), "right"),
        (OPEN, (-0.03, -0.01), "wrong"),
        (OPEN, (-0.01, 0.03), "undecided"),
        (OPEN, None, "undecided"),
        (SHUT, (-0.03, -0.01), "right"),
        (SHUT, (0.01, 0.03), "wrong"),
        (Gate(), (0.01, 0.03), "undecided"),
    ],
)
def test_the_rule_is_right_only_where_the_interval_leaves_zero_out(gate, interval, verdict):
    assert setting(gate=gate, interval=interval).verdict == verdict
