"""Claims on block devices whose data others have as well: a disk and its partitions, a loop device and its file.

The kernel's locks know nothing of that. Two guests with a device each would write to the same data.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from lockd.engines.files.claims import Claim, Related
from lockd.linux.block_devices import Data, Extent, Extents, whole
from lockd.linux.file_identity import Identity
from lockd.locks.resource import Resource

_Index: TypeAlias = dict[Data, set[tuple[Extent, Claim]]]

_UNDER_IT: Final = "which it is on"
_ON_IT: Final = "which is on it"
_SAME: Final = "which has the same data"
_COMMON: Final = "which has some of the same data"


class RelatedDevices:
    """The claimed block devices, by where their data are. The mutex of the claims protects it."""

    def __init__(self) -> None:
        self._extents: dict[Claim, Extents] = {}
        # Apart, as of two devices that have some of a disk each, nothing is known: a thousand logical volumes of one
        # group are not compared with each other.
        self._all: _Index = {}
        self._some: _Index = {}

    def __len__(self) -> int:
        return len(self._extents)

    def extents(self, claim: Claim) -> Extents | None:
        """Return what a claim was entered with.

        :param claim: the claim.
        :returns: where the data of the device are; None if it is not on a block device.
        """
        return self._extents.get(claim)

    def add(self, claim: Claim, extents: Extents) -> None:
        """Enter a claim on a block device, or replace what was entered for it.

        :param claim: the claim.
        :param extents: where the data of the device are.
        """
        self.remove(claim)
        self._extents[claim] = extents
        for extent in extents:
            self._index(extent).setdefault(extent.data, set()).add((extent, claim))

    def remove(self, claim: Claim) -> None:
        """Remove a claim; no effect if it is not on a block device.

        :param claim: the claim, which ends.
        """
        for extent in self._extents.pop(claim, ()):
            index = self._index(extent)
            index[extent.data].remove((extent, claim))
            if not index[extent.data]:
                del index[extent.data]

    def _index(self, extent: Extent) -> _Index:
        return self._all if extent.is_all else self._some

    def in_the_way(
        self, claim: Claim, extents: Extents | None, claims: Mapping[Identity, Claim]
    ) -> Related | None:
        """Look for another claim on the data of a file or of a block device, unless both share them.

        :param claim: the claim on the file or device.
        :param extents: where the data of the device are; None for a file.
        :param claims: all claims, by their identities.
        :returns: why the claim is refused, or None.
        """
        if extents is None:
            if claim.identity not in self._all and claim.identity not in self._some:
                return None  # as of nearly every file
            extents = frozenset((whole(claim.identity),))
        for extent in extents:
            for theirs, other in self._same_data(extent, claims):
                if other is not claim and extent.overlaps(theirs) and not _are_shared(claim, other):
                    return Related(other, self._relation(claim, extents, other, extent == theirs))
        return None

    def _same_data(self, extent: Extent, claims: Mapping[Identity, Claim]) -> Iterator[tuple[Extent, Claim]]:
        data = extent.data
        yield from self._all.get(data, ())
        if extent.is_all:
            yield from self._some.get(data, ())
        if not isinstance(data, str) and data in claims:
            yield whole(data), claims[data]  # it may be a file

    def _relation(self, claim: Claim, extents: Extents, other: Claim, is_same: bool) -> str:
        """Return how the device or file of another claim is related to that of a claim, as a relative clause."""
        if any(extent.data == other.identity for extent in extents):
            return _UNDER_IT
        if any(extent.data == claim.identity for extent in self._extents.get(other, ())):
            return _ON_IT
        return _SAME if is_same else _COMMON


def _are_shared(one: Claim, other: Claim) -> bool:
    return all(isinstance(claim.holder, Resource) and claim.holder.shared for claim in (one, other))
