"""Each loss between logits against its equation written out, one number at a time, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cskd_bench.config import DeiT, Locality, PlainKD, VkD
from cskd_bench.loss_config import DIST, DKD, KL, NKD, Standardised
from cskd_bench.methods import METHODS
from cskd_bench.methods.logit_losses import logit_loss
from cskd_bench.outputs import StudentOutput, Targets


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(left, right):
    return sum(p * math.log(p / q) for p, q in zip(left, right, strict=True))


def mean(numbers):
    return sum(numbers) / len(numbers)


def kl(ours, theirs, _, config):
    T = config.temperature
    return mean([T**2 * divergence(softmax(z, T), softmax(s, T)) for s, z in zip(ours, theirs, strict=True)])


def standardised(ours, theirs, labels, config):
    def standardise(row):
        centre = mean(row)
        deviation = math.sqrt(sum((value - centre) ** 2 for value in row) / (len(row) - 1))
        return [(value - centre) / (1e-7 + deviation) for value in row]

    return kl([standardise(row) for row in ours], [standardise(row) for row in theirs], labels, config)


def others(row, target):
    return [value for number, value in enumerate(row) if number != target]


def nkd(ours, theirs, labels, config):
    T, parts = config.temperature, []
    for s, z, target in zip(ours, theirs, labels, strict=True):
        p_s, p_t = softmax(s)[target], softmax(z)[target]
        q_s, q_t = softmax(others(s, target), T), softmax(others(z, target), T)
        rest = -sum(q * math.log(p) for q, p in zip(q_t, q_s, strict=True))
        parts.append(-p_t * math.log(p_s) + config.gamma * T**2 * rest)
    return mean(parts)


def dkd(ours, theirs, labels, config):
    T, parts = config.temperature, []
    for s, z, target in zip(ours, theirs, labels, strict=True):
        p_s, p_t = softmax(s, T)[target], softmax(z, T)[target]
        binary = divergence([p_t, 1 - p_t], [p_s, 1 - p_s])
        rest = divergence(softmax(others(z, target), T), softmax(others(s, target), T))
        parts.append(T**2 * (config.alpha * binary + config.beta * rest))
    return mean(parts)


def correlation(left, right):
    a, b = ([value - mean(row) for value in row] for row in (left, right))
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length + 1e-8)


def dist(ours, theirs, _, config):
    T = config.temperature
    s, z = [softmax(row, T) for row in ours], [softmax(row, T) for row in theirs]
    rows = mean([correlation(a, b) for a, b in zip(s, z, strict=True)])
    columns = mean([correlation(a, b) for a, b in zip(zip(*s, strict=True), zip(*z, strict=True), strict=True)])
    return T**2 * (config.beta * (1 - rows) + config.gamma * (1 - columns))


SLOW = [
    (KL, kl, {}),
    (Standardised, standardised, {}),
    (NKD, nkd, {"gamma": 1.5}),
    (DKD, dkd, {"alpha": 0.5, "beta": 8.0}),
    (DIST, dist, {"beta": 2.0, "gamma": 3.0}),
]


def draw(seed, images, classes, mixed):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (3 * torch.randn(images, classes, generator=generator).double() for _ in range(2))
    targets = torch.randint(classes, (images,), generator=generator)
    labels = F.one_hot(targets, classes).double()
    if mixed:  # as mixup and smoothing make them; the class with the larger share stays the first
        share = 0.5 + 0.5 * torch.rand(images, 1, generator=generator).double()
        labels = 0.9 * (share * labels + (1 - share) * labels.roll(1, 0)) + 0.1 / classes
        targets = labels.argmax(1)
    return ours, theirs, labels, targets.tolist()


@pytest.mark.parametrize(("settings_of", "slow", "weights"), SLOW, ids=lambda value: getattr(value, "__name__", ""))
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    images=st.integers(2, 5),
    classes=st.integers(2, 6),
    temperature=st.sampled_from([1.0, 2.0, 4.0]),
    mixed=st.booleans(),
)
def test_a_loss_is_its_equation(settings_of, slow, weights, seed, images, classes, temperature, mixed):
    config = settings_of(temperature=temperature, **weights)
    ours, theirs, labels, targets = draw(seed, images, classes, mixed)
    expected = slow(ours.tolist(), theirs.tolist(), targets, config)
    assert logit_loss(config, ours, theirs, labels).item() == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("settings_of", [case[0] for case in SLOW])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_are_those_of_small_steps(settings_of, mixed):
    ours, theirs, labels, _ = draw(7, 4, 5, mixed)
    assert torch.autograd.gradcheck(
        lambda logits: logit_loss(settings_of(), logits, theirs, labels), ours.requires_grad_(), atol=1e-7
    )


@pytest.mark.parametrize("kind", ["kl", "standardised", "nkd", "dkd", "dist"])
@pytest.mark.parametrize("method", [PlainKD, DeiT])
def test_a_table_weighs_labels_and_loss(method, kind):
    config = method(loss={"kind": kind, "label_weight": 0.3, "weight": 0.7})
    ours, theirs, labels, _ = draw(1, 4, 5, True)
    other = ours.flip(0)
    parts = METHODS[config.kind].losses(config, StudentOutput(ours, other), Targets(theirs), labels)
    read = ours if method is PlainKD else other
    assert parts["global"] == logit_loss(config.loss, read, theirs, labels)
    assert parts["label"].item() == pytest.approx(-(labels * ours.log_softmax(1)).sum(1).mean().item())
    assert parts["total"].item() == pytest.approx(0.3 * parts["label"].item() + 0.7 * parts["global"].item())


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("settings_of", [case[0] for case in SLOW])
def test_large_logits_in_fp32_give_finite_losses_and_gradients(settings_of, scale):
    ours, theirs, labels, _ = draw(3, 4, 5, False)
    leaf = (scale * ours).float().requires_grad_()
    loss = logit_loss(settings_of(), leaf, (scale * theirs).float(), labels.float())
    loss.backward()
    assert loss.isfinite() and leaf.grad.isfinite().all()


def test_vkds_distance_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    projected, pooled = (torch.randn(4, 6, generator=generator).double() for _ in range(2))
    expected = []
    for ours, theirs in zip(projected.tolist(), pooled.tolist(), strict=True):
        centre = mean(theirs)
        deviation = math.sqrt(mean([(value - centre) ** 2 for value in theirs]) + 1e-5)
        gaps = [abs(a - (b - centre) / deviation) for a, b in zip(ours, theirs, strict=True)]
        expected += [0.5 * gap**2 if gap < 1 else gap - 0.5 for gap in gaps]
    assert feature(VkD(), projected, pooled) == pytest.approx(mean(expected), abs=1e-12)


def test_srds_distance_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    projected, pooled = (torch.randn(4, 6, generator=generator).double() for _ in range(2))
    pooled[:, 2] = 0.0  # a channel that is off in all images
    powers = []
    for ours, theirs in zip(projected.T.tolist(), pooled.T.tolist(), strict=True):
        sides = []
        for channel in (ours, theirs):
            deviation = math.sqrt(mean([(value - mean(channel)) ** 2 for value in channel]))
            sides.append([(value - mean(channel)) / deviation if deviation else 0.0 for value in channel])
        powers.append(abs(mean([a * b for a, b in zip(*sides, strict=True)]) - 1) ** 4)
    config = VkD(projector="linear", feature_norm="batch", distance="logsum")
    assert feature(config, projected, pooled) == pytest.approx(math.log(sum(powers) + 1e-5), abs=1e-12)


def feature(config, projected, pooled):
    logits = torch.zeros(4, 3).double()
    student = StudentOutput(logits, logits, projected=(projected,))
    parts = METHODS["vkd"].losses(config, student, Targets(logits, features=(pooled,)), logits.softmax(1))
    return parts["feature"].item()


def test_localitys_distance_is_a_sum_over_pairs_at_the_larger_size():
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 6), (4, 4), (5, 2)]
    ours = tuple(torch.randn(2, 4, a, a, generator=generator).double() for a, _ in sizes)
    theirs = tuple(torch.randn(2, 4, b, b, generator=generator).double() for _, b in sizes)
    logits = torch.zeros(2, 3).double()
    student = StudentOutput(logits, projected=ours)
    parts = METHODS["locality"].losses(Locality(), student, Targets(features=theirs), logits.softmax(1))
    expected = 0.0
    for (a, b), one, other in zip(sizes, ours, theirs, strict=True):
        one, other = (enlarge(maps, max(a, b)) for maps in (one, other))
        expected += ((one - other) ** 2).mean().item()
    assert parts["feature"].item() == pytest.approx(expected, abs=1e-12)
    assert parts["total"].item() == pytest.approx(parts["label"].item() + 2.5 * expected, abs=1e-12)


def enlarge(maps, size):
    """Bilinear, half-pixel centres, edges repeated: one place at a time."""
    old = maps.shape[-1]
    result = torch.zeros(*maps.shape[:2], size, size, dtype=maps.dtype)
    for row in range(size):
        for column in range(size):
            y, x = (min(max((place + 0.5) * old / size - 0.5, 0), old - 1) for place in (row, column))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, old - 1), min(left + 1, old - 1)
            dy, dx = y - top, x - left
            result[..., row, column] = (
                (1 - dy) * (1 - dx) * maps[..., top, left]
                + (1 - dy) * dx * maps[..., top, right]
                + dy * (1 - dx) * maps[..., bottom, left]
                + dy * dx * maps[..., bottom, right]
            )
    return result
