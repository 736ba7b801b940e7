"""Losses between logits as pure functions; suffixes: B images, K classes. Logits of the teacher have no gradient.

The target class c of an image is its label, and under mixing the larger part of it (as NKD's and OFAKD's code do).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.loss_config import DIST, DKD, KL, NKD, LossConfig, Standardised
from cskd_bench.methods.parts import label_loss, plain_kd_loss

_STANDARDISED_EPS = 1e-7
_CORRELATION_EPS = 1e-8


def weighed_losses(
    config: LossConfig, class_logits_BK: Tensor, logits_BK: Tensor, target_BK: Tensor, labels_BK: Tensor
) -> dict[str, Tensor]:
    """Return `label` of the class logits, `global` of the logits that learn from the teacher, and their `total`."""
    label = label_loss(class_logits_BK, labels_BK)
    global_ = logit_loss(config, logits_BK, target_BK, labels_BK)
    return {"label": label, "global": global_, "total": config.label_weight * label + config.weight * global_}


def logit_loss(config: LossConfig, logits_BK: Tensor, target_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Return the loss that a table names, without its weight, mean over images."""
    match config:
        case KL():
            return plain_kd_loss(logits_BK, target_BK, config.temperature)
        case Standardised():
            return standardised_loss(logits_BK, target_BK, config.temperature)
        case NKD():
            return nkd_loss(logits_BK, target_BK, labels_BK, config.temperature, config.gamma)
        case DKD():
            return dkd_loss(logits_BK, target_BK, labels_BK, config.temperature, config.alpha, config.beta)
        case DIST():
            return dist_loss(logits_BK, target_BK, config.temperature, config.beta, config.gamma)


def standardised_loss(logits_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """T^2 * KL between standardised logits, mean over images (arXiv 2403.01427)."""
    return plain_kd_loss(_standardise(logits_BK), _standardise(target_BK), temperature)


def _standardise(logits_BK: Tensor) -> Tensor:
    """(z - mean) / (1e-7 + sd) by image, sd over K - 1; torch's own deviation has gradient 0 where all are equal."""
    mean = logits_BK.mean(1, keepdim=True)
    return (logits_BK - mean) / (logits_BK.std(1, keepdim=True) + _STANDARDISED_EPS)


def nkd_loss(logits_BK: Tensor, target_BK: Tensor, labels_BK: Tensor, temperature: float, gamma: float) -> Tensor:
    """-p_t[c] log p_s[c] - gamma T^2 sum over others of q_t log q_s, mean over images (arXiv 2303.13005).

    p at temperature 1; q is the softmax over the K - 1 other classes at T. Its part is a cross-entropy: not 0 where
    student and teacher agree.
    """
    target_class = labels_BK.argmax(1, keepdim=True)
    log_p = F.log_softmax(logits_BK, dim=1).gather(1, target_class)
    target_part = -(F.softmax(target_BK, dim=1).gather(1, target_class) * log_p).mean()
    student, teacher = (_log_rest(logits / temperature, target_class) for logits in (logits_BK, target_BK))
    rest_part = -(_probability(teacher, target_class) * student).sum(1).mean() * temperature**2
    return target_part + gamma * rest_part


def dkd_loss(
    logits_BK: Tensor, target_BK: Tensor, labels_BK: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T^2 * (alpha KL(b_t, b_s) + beta KL(q_t, q_s)), mean over images (arXiv 2203.08679).

    b = (p[c], 1 - p[c]), and q the softmax over the other classes, both at T.
    """
    target_class = labels_BK.argmax(1, keepdim=True)
    student, teacher = logits_BK / temperature, target_BK / temperature
    binary = F.kl_div(
        _log_binary(student, target_class), _log_binary(teacher, target_class), reduction="batchmean", log_target=True
    )
    student, teacher = _log_rest(student, target_class), _log_rest(teacher, target_class)
    rest = (_probability(teacher, target_class) * (teacher - student)).sum(1).mean()
    return (alpha * binary + beta * rest) * temperature**2


def _log_binary(logits_BK: Tensor, target_class: Tensor) -> Tensor:
    """Return log (p[c], 1 - p[c]), (B, 2); the second by logsumexp over the others, which never underflows."""
    others = logits_BK.scatter(1, target_class, -torch.inf).logsumexp(1, keepdim=True)
    return F.log_softmax(torch.cat([logits_BK.gather(1, target_class), others], 1), dim=1)


def _log_rest(logits_BK: Tensor, target_class: Tensor) -> Tensor:
    """Return the log-softmax over the classes other than c, with 0 in the place of c."""
    return F.log_softmax(logits_BK.scatter(1, target_class, -torch.inf), dim=1).scatter(1, target_class, 0.0)


def _probability(log_rest_BK: Tensor, target_class: Tensor) -> Tensor:
    probability: Tensor = log_rest_BK.exp()
    return probability.scatter(1, target_class, 0.0)


def dist_loss(logits_BK: Tensor, target_BK: Tensor, temperature: float, beta: float, gamma: float) -> Tensor:
    """T^2 * (beta (1 - correlation of rows) + gamma (1 - correlation of columns)) (arXiv 2205.10536).

    Rows are images over classes, columns are classes over the images of the batch. Both of softmax(z / T).
    """
    student, teacher = F.softmax(logits_BK / temperature, dim=1), F.softmax(target_BK / temperature, dim=1)
    between_classes = 1 - _correlation(student, teacher).mean()
    between_images = 1 - _correlation(student.T, teacher.T).mean()
    return (beta * between_classes + gamma * between_images) * temperature**2


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Return Pearson's correlation of each row with the same row of the other."""
    left, right = left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True)
    norms: Tensor = left.norm(dim=1) * right.norm(dim=1)
    return (left * right).sum(1) / (norms + _CORRELATION_EPS)
