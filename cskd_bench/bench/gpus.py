"""Which GPU of this machine a cell gets."""

from typing import Final

from cskd_bench.errors import UserError

_ROUND: Final = 1e-6  # shares such as a third add up to one


class Gpus:
    """This machine's GPUs, handed out in shares: several cells on one below 1, whole ones from 1 on."""

    def __init__(self, count: int) -> None:
        self._used = [0.0] * count
        self._cells = [0] * count

    def check(self, share: float, parallel: int) -> None:
        """UserError where `parallel` cells could not have `share` GPUs each at a time."""
        if share == 0 or not self._used:
            return
        count = len(self._used)
        at_once = int(1 / share + _ROUND) * count if share < 1 else count // int(share)
        if at_once < parallel:
            raise UserError(
                f"--gpus {share:g} --parallel {parallel}: this machine has {count} GPUs, enough for {at_once} cells "
                "at a time; lower --parallel or --gpus"
            )

    def fits(self, share: float) -> bool:
        """Whether a share is free; where there are no GPUs, or none is asked for, it always is."""
        return self._find(share) is not None

    def take(self, share: float) -> tuple[int, ...]:
        """Take a share and return the GPUs' numbers; the one with the fewest cells where none is asked for."""
        found = self._find(share)
        assert found is not None, "asked without `fits`"
        for number in found:
            self._used[number] += min(share, 1.0)
            self._cells[number] += 1
        return found

    def give_back(self, numbers: tuple[int, ...], share: float) -> None:
        """Give back what was taken."""
        for number in numbers:
            self._used[number] -= min(share, 1.0)
            self._cells[number] -= 1

    def _find(self, share: float) -> tuple[int, ...] | None:
        if not self._used:
            return ()
        numbers = sorted(range(len(self._used)), key=lambda number: (self._cells[number], number))
        if share == 0:
            return (numbers[0],)
        wanted = max(1, int(share))
        free = [number for number in numbers if self._used[number] + min(share, 1.0) <= 1 + _ROUND]
        return tuple(sorted(free[:wanted])) if len(free) >= wanted else None
