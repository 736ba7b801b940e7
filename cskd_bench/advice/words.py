"""Advice as sentences, for a terminal."""

from collections.abc import Iterator, Sequence

from cskd_bench.advice.advise import Prospect
from cskd_bench.advice.gate import CONTROL, CONTROL_METHOD, GAP, Gate
from cskd_bench.advice.settings import MeasuredSetting
from cskd_bench.report.words import count, interval, points


def sentences(prospect: Prospect) -> list[str]:
    """Write what is known of the configuration, then the advice."""
    return [
        f"CSKD on {prospect.student}, {prospect.pretrain_data}, {count(prospect.epochs, 'epoch')}",
        f"1. Teacher: {_teacher(prospect)}",
        f"2. Gate: {gate_in_words(prospect.gate)}",
        f"3. CSKD − no teacher here: {_here(prospect.here)}",
        f"Advice: {' '.join(_advice(prospect))}",
        *_unused(prospect.unused),
    ]


def _unused(records: int) -> Iterator[str]:
    if records:
        told = count(records, "record")
        yield f"Not asked: {told} of uncommitted or unknown code; --include-dirty asks them, too."


def percent(share: float) -> str:
    """Write a share with one decimal."""
    return f"{100 * share:.1f} %"


def gate_in_words(gate: Gate) -> str:
    """Say whether the gate is open, and by which numbers."""
    state = {True: "open.", False: "shut.", None: "not known yet."}[gate.is_open]
    return " ".join([state, *_conditions(gate)])


def _conditions(gate: Gate) -> Iterator[str]:
    if gate.validation is None:
        yield "No run without a teacher is recorded."
        return
    if gate.training is None:
        yield f"Without a teacher: {percent(gate.validation)} on validation images; not measured on training images."
    else:
        yield (
            f"Without a teacher: {percent(gate.validation)} on validation images, "
            f"{percent(gate.training)} on training images, "
            f"{100 * (gate.training - gate.validation):.1f} points apart (opens at {100 * GAP:.0f}), "
            f"{count(gate.seeds, 'seed')}."
        )
    if gate.control is None:
        yield f"{CONTROL_METHOD}: not run."
    else:
        yield (
            f"{CONTROL_METHOD} − no teacher: {points(gate.control)} points (opens at {100 * CONTROL:.0f}), "
            f"{count(gate.control_seeds, 'seed')}."
        )


def setting_lines(one: MeasuredSetting) -> tuple[str, str]:
    """Write a measured setting in two lines: what it is, then what the rule says and what came out."""
    gate = {True: "open", False: "shut", None: "not measured"}[one.gate.is_open]
    teacher = f"right in {percent(one.strength.global_top1)} of views" if one.strength else "not measured"
    rule = f"rule: {one.expected}{', kept out of its making' if one.kept_out else ''}"
    bounds = interval(one.interval, signed=True)
    difference = f"CSKD − no teacher {points(one.difference)}{' ' + bounds if bounds else ''}"
    out = f"{difference}, {count(one.seeds, 'seed')}: {one.outcome}, {one.verdict}"
    return f"{one.title}; {one.teacher} ({one.results})", f"gate {gate}; teacher {teacher}; {rule}; {out}"


def score(settings: Sequence[MeasuredSetting]) -> str:
    """Say how the rule did on the settings that had no part in it."""
    kept_out = [one for one in settings if one.kept_out]
    if not kept_out:
        return "The rule has not been scored on a setting kept out of its making."
    verdicts = [one.verdict for one in kept_out]
    told = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("right", "wrong", "undecided"))
    return (
        f"Scored on {count(len(kept_out), 'setting')} kept out of the rule's making: {told} "
        "(undecided: the rule says nothing, or no interval leaves out zero)."
    )


def _teacher(prospect: Prospect) -> str:
    if prospect.strength is None:
        return f"{prospect.teacher}: not measured on these views."
    return (
        f"{prospect.teacher} names the class of {percent(prospect.strength.global_top1)} of the views and of "
        f"{percent(prospect.strength.local_top1)} of the positions."
    )


def _here(here: MeasuredSetting | None) -> str:
    if here is None:
        return "not run."
    bounds = interval(here.interval, signed=True)
    about = f"{count(here.seeds, 'seed')} ({here.results})"
    return f"{points(here.difference)} points{' ' + bounds if bounds else ''}, {about}."


def _advice(prospect: Prospect) -> Iterator[str]:
    gate, strength = prospect.gate, prospect.strength
    if prospect.expected == "gain":
        yield "Try CSKD, with several seeds."
        yield "The gate is open, and the teacher names the class more often than the student without one does."
        yield "The rule says that a gain is possible. It says nothing of its size."
    elif prospect.expected == "no gain" and gate.is_open is False:
        yield "The rule expects no gain from CSKD yet."
        yield "Without a teacher the student is not much better on training images than on validation images."
        yield "Train for more epochs, or on other data, and ask again."
    elif prospect.expected == "no gain" and strength is not None:
        yield "The rule expects no gain from CSKD with this teacher."
        yield "It names the class no more often than the student without a teacher does."
        yield "Choose one that knows these classes, or give it a larger resolution."
    elif prospect.to_run:
        yield "Not known yet. Run the commands below first."
    else:
        yield "Not known. The records without a teacher lack the score on training images, as older ones do."
        yield "Train once more without a teacher, with other folders for --runs and --results, and ask those results."
    if (like := prospect.alike) and prospect.expected != "unknown":
        differences = sorted(one.difference for one in like)
        yield (
            f"Where the rule said the same, {count(len(like), 'setting')} gave "
            f"{points(differences[0])} to {points(differences[-1])} points."
        )
