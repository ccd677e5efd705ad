"""Samples to measure with, and samples to judge the result on: never the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint

from burnish.calibration.samples import Sample
from burnish.errors import counted

#: One sample of so many is held out to judge the result, at most so many in all.
EVERY, JUDGED = 8, 16
#: Bytes of samples that are held out at most: they stay in memory.
_MEMORY = 256 << 20


class SplitSamples:
    """Calibration data without some samples, which are kept for the judgement.

    Going through it yields the others; what is held out is known after the first time.

    Args:
        data: All samples, in the same order each time.
        every: One of so many is held out, the last of them.
        most: At most so many.
    """

    def __init__(self, data: Iterable[Sample], every: int, most: int) -> None:
        self._data, self._every, self._most = data, every, most
        self._held: dict[int, Sample] = {}
        self._first: list[Sample] = []
        #: Samples that are measured with; known after the first time.
        self.measured = 0

    def __length_hint__(self) -> int:
        """How many samples there are at most; 0 if that is not known."""
        return length_hint(self._data)

    def __iter__(self) -> Iterator[Sample]:
        """The samples to measure with."""
        count = size = 0
        first: list[Sample] = []
        for index, sample in enumerate(self._data):
            nbytes = sum(array.nbytes for array in sample.values())
            ours = index % self._every == self._every - 1 and count < self._most
            if ours and (not count or size + nbytes <= _MEMORY):
                self._held[index] = sample
                count, size = count + 1, size + nbytes
                continue
            if index < self._every:
                first.append(sample)
            yield sample
        self.measured = index + 1 - count
        self._first = first

    @property
    def held(self) -> list[Sample]:
        """The samples that are held out; empty if there are too few to spare one."""
        return list(self._held.values())

    @property
    def judged(self) -> list[Sample]:
        """What to judge with: the samples held out, or the measured ones if there are none."""
        return self.held or self._first

    def for_judgement(self) -> tuple[list[Sample], str]:
        """What to judge with, and a line about it."""
        if not self.measured:
            for _ in self:  # nothing needed samples so far
                pass
        on = f"judged on {counted(len(self.judged), 'sample')}"
        if self.held:
            return self.judged, f"{on} that nothing was measured on"
        less = f"of less than {self._every} none is held out"
        return self.judged, f"{on} that were measured as well: {less}"
