"""Batches in the groups that make one optimiser step, one group fetched ahead."""

from __future__ import annotations

from collections.abc import Generator

from vitrail.contracts import Batch, EpochLoader, VitrailError


class Feed:
    """The rest of one epoch, in groups of ``accumulate`` batches (the last may be shorter).

    :meth:`fetch` may run while the device is still busy with the group before; whatever goes wrong in it is raised
    by the :meth:`take` that follows, so that the step in hand can be finished and kept.

    Args:
        loader: where the batches come from.
        accumulate: batches a group.
        epoch: which epoch.
        start: batches of it that are done.
    """

    def __init__(self, loader: EpochLoader, accumulate: int, epoch: int, start: int) -> None:
        self._iterator = loader.epoch(epoch, start)
        self._accumulate = accumulate
        self._place = start
        self._total = len(loader)
        self._epoch = epoch
        self._group: list[Batch] = []
        self._fault: Exception | None = None
        self._fetched = False

    def fetch(self) -> None:
        """Get the next group ready."""
        self._fetched = True
        self._group = []
        try:
            wanted = min(self._accumulate, self._total - self._place)
            for _ in range(wanted):
                self._group.append(self._pull())
        except Exception as fault:
            self._fault = fault

    @property
    def failed(self) -> bool:
        """Whether the next :meth:`take` will raise."""
        return self._fault is not None

    def take(self) -> list[Batch]:
        """The group that was fetched, or the next; empty when the epoch is over."""
        if not self._fetched:
            self.fetch()
        self._fetched = False
        if self._fault is not None:
            raise self._fault
        return self._group

    def close(self) -> None:
        """Let the loader's workers go, also when the epoch is not over."""
        if isinstance(self._iterator, Generator):
            self._iterator.close()
        self._iterator = iter(())

    def _pull(self) -> Batch:
        batch = next(self._iterator, None)
        if batch is None:
            raise VitrailError(
                f"the loader promised {self._total} batches an epoch and ended after {self._place} "
                f"of epoch {self._epoch}"
            )
        if len(batch) == 0:
            raise VitrailError(f"batch {self._place} of epoch {self._epoch} is empty: the loader must not yield such")
        self._place += 1
        return batch
