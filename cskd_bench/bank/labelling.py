"""Labelling views for a bank: loader, teacher, envelope, packed bytes; on a GPU the last two are one batch behind."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from cskd_bench.bank.claim import ShardPlace
from cskd_bench.bank.envelope import upper_envelope
from cskd_bench.bank.pack import pack, soft_targets
from cskd_bench.bank.store import Bank
from cskd_bench.config import PretrainConfig
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.keys import ViewKey, ViewKeys
from cskd_bench.data.loader import make_loader, next_item, start_loader
from cskd_bench.data.sources import Source
from cskd_bench.data.train_views import Batch
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.device import pins
from cskd_bench.errors import UserError
from cskd_bench.models.teachers import Teacher
from cskd_bench.streams import SecondQueue


class _Response(NamedTuple):
    """The teacher's responses to a batch, perhaps still to be computed: `ready` marks when they are."""

    keys: ViewKeys
    dense_BKhw: Tensor
    global_BK: Tensor
    ready: torch.Event | None


class Labeller:
    """Makes and labels the views of shards, one after the other, in the run's own batches and by one loader."""

    def __init__(
        self,
        config: PretrainConfig,
        source: Source,
        teacher: Teacher,
        plan: ViewPlan,
        bank: Bank,
        device: torch.device,
    ) -> None:
        self.manifest = bank.manifest
        self.device = device
        self._config = config
        self._teacher = teacher
        self._plan = plan
        self._ladder = bank.ladder
        self._beside = SecondQueue(device)
        self._skipped: set[str] = set()
        augment = config.recipe.augment
        self._dataset = worker_views(source, augment, config.view_size, config.seed, config.data)

    def size(self, part: int) -> int:
        """Return how many views a shard has."""
        each = self.manifest.views_per_shard
        return min(each, self.manifest.views_per_epoch - part * each)

    def batches(self, places: Iterable[ShardPlace]) -> Iterator[list[bytes]]:
        """Return packed views, batch by batch, of shard after shard, in the order of their positions.

        A place is asked for when the loader comes to it. On a GPU a batch is packed while the teacher is at the next.
        UserError for a view that cannot be made, and for a response that is not finite.
        """
        workers = self._config.run.workers
        loader = make_loader(self._dataset, self._keys(places), workers=workers, pinned=pins(self.device))
        batches = start_loader(loader)
        responses = self._responses(batches, workers)
        return self._pack_beside(responses) if self._beside.runs_beside else map(self._pack, responses)

    def _responses(self, batches: Iterator[Batch], workers: int) -> Iterator[_Response]:
        while (made := next_item(batches, workers)) is not None:
            self._account_for_skipped(made)
            yield self._label(made)

    def _pack_beside(self, responses: Iterator[_Response]) -> Iterator[list[bytes]]:
        """Pack in a thread, while the device is at the next batch."""
        waiting: deque[Future[list[bytes]]] = deque()
        with ThreadPoolExecutor(1, "packing") as packer:
            for response in responses:
                waiting.append(packer.submit(self._pack, response))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            for packed in waiting:
                yield packed.result()

    def _keys(self, places: Iterable[ShardPlace]) -> Iterator[list[ViewKey]]:
        """Yield the keys of each batch; none has views of two shards."""
        plan, batch = self._plan, self._config.recipe.batch_size
        for epoch, part in places:
            first = epoch * plan.steps_per_epoch + part * self.manifest.views_per_shard // plan.batch_size
            groups = self.size(part) // plan.batch_size
            keys = [key for group in range(groups) for key in plan.keys(first + group)]
            yield from (keys[start : start + batch] for start in range(0, len(keys), batch))

    def _account_for_skipped(self, batch: Batch) -> None:
        for sentence in dict.fromkeys(batch.skipped):
            if sentence not in self._skipped:
                print(f"skipped: {sentence}")
                self._skipped.add(sentence)
        if len(self._skipped) > (limit := self._config.data.max_skipped):
            raise UserError(f"{len(self._skipped)} images were skipped, data.max_skipped is {limit}")

    @torch.no_grad()
    def _label(self, batch: Batch) -> _Response:
        """Give the device the batch's views and the teacher's pass, and wait for neither."""
        config = self._config
        views, _ = finish_batch(batch, config.recipe.augment, config.data.num_classes, self.device)
        output = self._teacher(views)
        return _Response(batch.keys, output.dense, output.global_logits, self._beside.mark())

    @torch.no_grad()
    def _pack(self, response: _Response) -> list[bytes]:
        """Find the labels for every ratio, and pack them; on a GPU in a thread of its own."""
        keys, dense, global_, ready = response
        with self._beside.after(ready):
            try:
                envelope = upper_envelope(dense, global_, self._ladder)
            except ValueError as error:
                raise UserError(f"epoch {keys.epoch}, views from {keys.positions[0]}: {error}") from error
            soft = None
            if self.manifest.soft_classes:
                soft = soft_targets(global_, self.manifest.soft_classes, self.manifest.soft_temperature)
        return pack(envelope, soft)
