"""Nothing that is not finite reaches a weight: losses, teacher responses and gradients are watched in every step.

A loss or a teacher's response that is not finite makes the loss NaN, and with it every gradient: ranks average their
gradients, so all of them see it and skip the same update on their devices. The host reads what happened later, on a
GPU one step late, so that it never waits for the step that is running; a checkpoint waits for its step.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cskd_bench.device import HostCopy, steps_behind
from cskd_bench.engine.optim import gradient_norm, skip_update_if
from cskd_bench.errors import UserError

IN_A_ROW: Final = 20  # skipped updates under a loss scale, after which the run stops: 2^20 is the scale's usual height
LOWEST_SCALE: Final = 1.0


class NotFinite(UserError):
    """A run stops because of what is not finite; `consequence` where the cause may lie on another rank."""

    def __init__(self, message: str, *, consequence: bool = False) -> None:
        super().__init__(message)
        self.consequence = consequence


@dataclass(frozen=True)
class Advice:
    """What a message may recommend for a run's settings."""

    precision: str  # of the recipe
    teacher_precision: str

    def for_loss(self) -> str:
        """Name settings that keep a loss finite."""
        if self.precision == "fp16":
            return "fp16 overflows above 65,504: use recipe.precision = bf16 or fp32, each is another recipe"
        return "lower recipe.optim.lr, lengthen recipe.optim.warmup_epochs, or set recipe.optim.clip_grad"

    def for_teacher(self) -> str:
        """Name settings that keep a teacher's response finite."""
        if self.teacher_precision == "fp16":
            return "fp16 overflows above 65,504: set teacher.precision = fp32, tf32 or bf16"
        return "its weights, or pixels that it is given, are out of range: look at teacher.weights"


class FiniteWatch:
    """Takes a step's update, or skips it, and tells the host what it was."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        parameters: list[Tensor],
        advice: Advice,
        device: torch.device,
        skipped: int = 0,
    ) -> None:
        self._optimizer, self._scaler, self._advice = optimizer, scaler, advice
        self._parameters = parameters
        self._bad = torch.zeros(2, device=device)  # loss, teacher: in any micro-batch of this step
        self._latch = torch.zeros((), device=device)  # without a scaler nothing is updated after the first fault
        self._nan = torch.tensor(float("nan"), device=device)
        self._one = torch.ones((), device=device)
        self._behind = steps_behind(device)
        self._waiting: deque[tuple[Callable[[], str], HostCopy]] = deque()
        self.skipped = skipped  # updates in a row

    def guard(self, loss: Tensor, teacher_finite: Tensor | None) -> Tensor:
        """Return the loss of a micro-batch, bit for bit, or NaN where it or the teacher's response is not finite."""
        finite = loss.detach().isfinite()
        responses = torch.ones_like(finite) if teacher_finite is None else teacher_finite
        self._bad = torch.maximum(self._bad, 1 - torch.stack([finite, responses]).float())
        return loss * torch.where(finite & responses, self._one, self._nan)

    def update(self, clip: float | None, where: Callable[[], str]) -> dict[str, Tensor]:
        """Take the optimiser's step unless a gradient is not finite; `where` names the step, should a message need it.

        Returns what the log shows: the gradients' norm (0 where it is not finite) and whether the update was skipped.
        """
        self._scaler.unscale_(self._optimizer)
        norm = gradient_norm(self._parameters, clip)
        skipped = 1 - norm.isfinite().float()
        if not self._scaler.is_enabled():
            self._latch = torch.maximum(self._latch, skipped)
            skip_update_if(self._optimizer, self._latch)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._waiting.append((where, HostCopy(torch.cat([self._bad, skipped[None]]))))
        self._bad = torch.zeros_like(self._bad)
        return {"grad_norm": torch.where(norm.isfinite(), norm, 0.0), "skipped_updates": skipped}

    def check(self, *, all_steps: bool = False) -> None:
        """Raise NotFinite for what is known by now; `all_steps` waits for the newest step as well."""
        while len(self._waiting) > (0 if all_steps else self._behind):
            where, copy = self._waiting.popleft()
            loss, teacher, skipped = copy.values()
            if loss or teacher or (skipped and not self._scaler.is_enabled()):
                raise self._fault(where(), bool(loss), bool(teacher))
            self.skipped = self.skipped + 1 if skipped else 0
            if skipped:
                self._check_scale(where())

    def _fault(self, where: str, loss: bool, teacher: bool) -> NotFinite:
        after = "No update was made from it, and no checkpoint written since"
        if teacher:
            return NotFinite(f"the teacher's response is not finite {where}. {after}; {self._advice.for_teacher()}")
        if loss:
            return NotFinite(f"the loss is not finite {where}. {after}; {self._advice.for_loss()}")
        hint = self._advice.for_loss()
        return NotFinite(f"the gradient is not finite {where}. {after}; {hint}", consequence=True)

    def _check_scale(self, where: str) -> None:
        if self.skipped >= IN_A_ROW:
            raise NotFinite(
                f"gradients were not finite in {self.skipped} updates in a row, the last {where}; none of these was "
                f"made. {self._advice.for_loss()}"
            )
        if (scale := self._scaler.get_scale()) < LOWEST_SCALE:
            raise NotFinite(
                f"the loss scale fell to {scale:g} {where}: gradients overflow at every scale; the last update was not "
                f"made. {self._advice.for_loss()}"
            )


def refuse_non_finite_weights(*modules: torch.nn.Module | None) -> None:
    """UserError where a weight or a buffer is not finite, so that no checkpoint ever holds one."""
    for module in filter(None, modules):
        values = [value for value in module.state_dict().values() if value.is_floating_point()]
        if not bool(torch.nn.utils.get_total_norm(values, float("inf")).isfinite()):
            name = next(name for name, value in module.state_dict().items() if not value.isfinite().all())
            raise NotFinite(
                f"the weight {name} is not finite after this update, so no checkpoint is written and the one before "
                "stays the newest; lower recipe.optim.lr"
            )
