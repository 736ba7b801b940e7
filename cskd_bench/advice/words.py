"""Advice as sentences, for a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

from cskd_bench.advice.advise import Prospect
from cskd_bench.advice.gate import CONTROL, CONTROL_METHOD, GAP, Gate
from cskd_bench.advice.settings import MeasuredSetting
from cskd_bench.report.selection import STUDIED
from cskd_bench.report.words import count, interval, points


def sentences(prospect: Prospect) -> list[str]:
    """Write what is known of the configuration, then the advice."""
    name = _name(prospect)
    return [
        f"{name} on {prospect.student}, {prospect.pretrain_data}, {count(prospect.epochs, 'epoch')}",
        f"1. Teacher: {_teacher(prospect)}",
        f"2. Gate: {gate_in_words(prospect.gate)}",
        f"3. {name} − no teacher here: {_here(prospect.here)}",
        f"Advice: {' '.join(_advice(prospect))}",
        *_unused(prospect.unused),
    ]


def _name(prospect: Prospect) -> str:
    return "CSKD" if prospect.method == STUDIED else prospect.method


def _unused(records: int) -> Iterator[str]:
    if records:
        told = count(records, "record")
        yield f"Not asked: {told} of uncommitted or unknown code; --include-dirty asks them, too."


def percent(share: float) -> str:
    """Write a share with one decimal."""
    return f"{100 * share:.1f} %"


def gate_in_words(gate: Gate) -> str:
    """Say whether the gate is open, and by which numbers."""
    return " ".join([f"{_state(gate)}.", *_conditions(gate)])


def _state(gate: Gate) -> str:
    if gate.is_open is False and gate.control is None:
        return "shut, by the gap alone"
    return {True: "open", False: "shut", None: "not known yet"}[gate.is_open]


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
        yield f"{CONTROL_METHOD}: no run with this teacher at a seed that was also run without one."
    else:
        yield (
            f"{CONTROL_METHOD} − no teacher: {points(gate.control)} points (opens at {100 * CONTROL:.0f}), "
            f"{count(gate.control_seeds, 'seed')}."
        )


def setting_lines(one: MeasuredSetting) -> tuple[str, str]:
    """Write a measured setting in two lines: what it is, then what the rule says and what came out."""
    teacher = f"right in {percent(one.strength.global_top1)} of views" if one.strength else "not measured"
    rule = f"rule: {one.expected}{', kept out of its making' if one.kept_out else ''}"
    out = f"CSKD − no teacher {difference_in_words(one)}: {one.outcome}, {one.verdict}"
    return f"{one.title}; {one.teacher} ({one.results})", f"gate {_state(one.gate)}; teacher {teacher}; {rule}; {out}"


def difference_in_words(one: MeasuredSetting) -> str:
    """Write a difference with its interval and seeds: `−0.08 points [−9.08, +8.91], 3 seeds`."""
    bounds = interval(one.interval, signed=True)
    seeds = f"{one.seeds} of {count(one.planned, 'seed')}" if one.waits else count(one.seeds, "seed")
    if not one.seeds:
        return seeds
    return f"{points(one.difference)} points{' ' + bounds if bounds else ''}, {seeds}"


def score(settings: Sequence[MeasuredSetting]) -> str:
    """Say how the rule did on the settings that had no part in it."""
    kept_out = [one for one in settings if one.kept_out]
    if not kept_out:
        return "The rule has not been scored on a setting kept out of its making."
    verdicts = [one.verdict for one in kept_out]
    told = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("right", "wrong", "undecided"))
    return (
        f"Scored on {count(len(kept_out), 'setting')} kept out of the rule's making: {told} "
        "(undecided: the rule says nothing, or no difference is shown)."
    )


def _teacher(prospect: Prospect) -> str:
    if prospect.strength is None:
        return f"{prospect.teacher}: not measured on these views."
    return (
        f"{prospect.teacher} names the class of {percent(prospect.strength.global_top1)} of the views and of "
        f"{percent(prospect.strength.local_top1)} of the positions"
        f"{'' if prospect.strength.same_recipe else ', on the views of another recipe for this data'}."
    )


def _here(here: MeasuredSetting | None) -> str:
    if here is None:
        return "not run."
    plan = f"; plan {here.plan}" if here.plan else ""
    told = {"not tested": "no answer yet", "equal": "equal within the plan's band"}.get(here.outcome, here.outcome)
    return f"{difference_in_words(here)}: {told} ({here.results}{plan})."


def _advice(prospect: Prospect) -> Iterator[str]:
    if prospect.waiting:
        yield f"Plan {prospect.waiting} is not finished: run it to its end, as nothing is claimed before."
    elif prospect.here is not None and (prospect.here.plan or prospect.here.interval):
        yield _experience(prospect.here, _name(prospect))
    yield from _rule(prospect)
    if (like := prospect.alike) and prospect.expected != "unknown":
        told = ", ".join(f"{number} {name}" for name, number in sorted(Counter(one.outcome for one in like).items()))
        yield f"Other settings where the rule said the same, each taken alone: {told}."


def _experience(here: MeasuredSetting, name: str) -> str:
    """Say what its own runs showed of a setting; no rule says more."""
    if not here.plan:
        side = {"higher": "is above zero", "lower": "is below zero"}.get(here.outcome, "includes zero")
        return f"The interval of this difference alone {side}. For a claim, register a plan with new seeds."
    match here.outcome:
        case "higher" | "lower":
            return f"{name} scores {here.outcome} than no teacher here: {difference_in_words(here)}."
        case "equal":
            return f"{name} and no teacher are equal here, within the plan's band."
        case "not shown":
            return f"{count(here.seeds, 'seed')} do not show a difference between {name} and no teacher here."
        case _:
            return f"Plan {here.plan} has all its seeds, and no test: they all differ by the same."


def _rule(prospect: Prospect) -> Iterator[str]:
    gate, strength, here = prospect.gate, prospect.strength, prospect.here
    if prospect.expected == "gain":
        if not prospect.waiting and (here is None or not (here.plan or here.interval)):
            yield "Try CSKD, with several seeds."
        yield "The gate is open, and the teacher names the class more often than the student without one does."
        yield "So the rule says that a gain is possible. It says nothing of its size."
    elif prospect.expected == "no gain" and gate.is_open is False:
        yield "The rule expects no gain from CSKD yet."
        yield "Without a teacher the student is not much better on training images than on validation images."
        if gate.control is None:
            yield f"A gain of {CONTROL_METHOD} would open the gate all the same."
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
