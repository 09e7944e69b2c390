"""Claims on block devices whose data others have as well: a disk and its partitions, a loop device and its file.

The kernel's locks know nothing of that. Two guests with a device each would write to the same data.
"""

from collections.abc import Iterator, Mapping

from lockd.engines.files.claims import Claim
from lockd.linux.block_devices import Data, Relations
from lockd.linux.file_identity import Identity
from lockd.locks.resource import Resource


class RelatedDevices:
    """The claimed block devices, by what they are related to. The mutex of the claims protects it."""

    def __init__(self) -> None:
        self._relations: dict[Claim, Relations] = {}
        self._own: dict[Data, list[Claim]] = {}
        self._below: dict[Data, list[Claim]] = {}

    def __len__(self) -> int:
        return len(self._relations)

    def relations(self, claim: Claim) -> Relations | None:
        """Return what a claim was entered with.

        :param claim: the claim.
        :returns: its relations; None if it is not on a block device.
        """
        return self._relations.get(claim)

    def add(self, claim: Claim, relations: Relations) -> None:
        """Enter a claim on a block device.

        :param claim: the claim.
        :param relations: what the device is related to.
        """
        self._relations[claim] = relations
        for index, datas in ((self._own, relations.own), (self._below, relations.below)):
            for data in datas:
                index.setdefault(data, []).append(claim)

    def remove(self, claim: Claim) -> None:
        """Remove a claim; no effect if it is not on a block device.

        :param claim: the claim, which ends.
        """
        relations = self._relations.pop(claim, None)
        if relations is None:
            return
        for index, datas in ((self._own, relations.own), (self._below, relations.below)):
            for data in datas:
                index[data].remove(claim)
                if not index[data]:
                    del index[data]

    def in_the_way(
        self, claim: Claim, relations: Relations | None, claims: Mapping[Identity, Claim]
    ) -> Claim | None:
        """Return another claim on the data of a file or of a block device, unless both share them.

        :param claim: the claim on the file or device.
        :param relations: what the device is related to; None for a file.
        :param claims: all claims, by their identities.
        :returns: the other claim, or None.
        """
        if relations is None:
            relations = Relations(frozenset({claim.identity}), frozenset())
        for other in self._related(relations, claims):
            if other is not claim and not (_is_shared(claim) and _is_shared(other)):
                return other
        return None

    def _related(self, relations: Relations, claims: Mapping[Identity, Claim]) -> Iterator[Claim]:
        for data in relations.own:
            yield from self._own.get(data, ())
            yield from self._below.get(data, ())
        for data in relations.below:
            yield from self._own.get(data, ())
            if not isinstance(data, str) and data in claims:
                yield claims[data]


def _is_shared(claim: Claim) -> bool:
    return isinstance(claim.holder, Resource) and claim.holder.shared
