"""The claims of a worker as the database has them: kept while in use, given back when nobody here knows of them."""

from __future__ import annotations

from uuid import UUID

from pgbus.aio.clock import now
from pgbus.database.statements import deliveries
from pgbus.database.store import Store
from pgbus.worker.membership import Membership
from pgbus.worker.runners import Runners


class Leases:
    """Keeps the claims of a worker's listeners for `lease` seconds at a time."""

    def __init__(self, runners: Runners, *, membership: Membership, lease: float) -> None:
        self._runners = runners
        self._membership = membership
        self._lease = lease

    def lapse(self) -> None:
        """Begin no event of any claim: they were made under an id whose lock is not ours any more."""
        for held in self._runners.held_claims:
            held.lapse()

    async def extend(self, store: Store) -> None:
        """Keep our claims; of one that is no longer ours no more events begin."""
        # Those that are claimed during the statement have a lease of their own, and are not in here.
        held_claims = {held.claim.id: held for held in self._runners.held_claims}
        if not held_claims:
            return
        # From before the statement: the lease in the database then ends no earlier than we believe.
        kept_until = now() + self._lease
        kept = await deliveries.extend_leases(store, [held.claim for held in held_claims.values()], lease=self._lease)
        for id_ in kept:
            held_claims.pop(id_).kept_until = kept_until
        if held_claims:  # a transactional handler has locked them, or they are lost
            # The row lock keeps the first kind, whatever its lease; `kept_until` stays, so that no further event
            # begins.
            ours = await deliveries.find_our_claims(store, [held.claim for held in held_claims.values()])
            for id_ in held_claims.keys() - ours:
                held_claims[id_].lapse()

    async def return_forgotten(self, store: Store) -> None:
        """Release claims of this worker in the database that it does not know, because an answer was lost."""
        if forgotten := await self._forgotten(store):
            await deliveries.return_claims(store, forgotten)

    async def forfeit_forgotten(self, store: Store) -> None:
        """Free unknown claims as a dead worker's, which counts against their events: they may have caused a failure."""
        if forgotten := await self._forgotten(store):
            await deliveries.forfeit_claims(store, forgotten)

    async def _forgotten(self, store: Store) -> dict[int, UUID]:
        """Claims that are not known; most of them were settled during the look, and nothing of them is left."""
        if not (worker_id := self._membership.claimant()):
            return {}
        claims = await deliveries.find_own_claims(store, worker_id=worker_id)
        # Asked for last: by then we know of every claim that we asked for before the look.
        known = self._runners.tokens
        return {id_: token for id_, token in claims.items() if token not in known}
