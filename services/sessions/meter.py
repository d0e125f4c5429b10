"""Meter: what a session uses while an engine plays it, and whether it may go on."""

import asyncio

from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.errors import StoreUnavailable
from services.sessions.tenants import TenantStore

log = telemetry.logger("sessions")


class Meter:
    """One session in one epoch. Nothing is counted twice: the store knows how far it has counted."""

    def __init__(
        self,
        tenants: TenantStore,
        session: Session,
        epoch: int,
        *,
        period_s: float,
        keep_s: float,
        notice_s: float,
    ) -> None:
        """period_s: how often usage is told to Redis; keep_s, notice_s: see TenantStore.meter."""
        self._tenants = tenants
        self._session = session
        self._epoch = epoch
        self._period_s = period_s
        self._keep_s = keep_s
        self._notice_s = notice_s
        self._latents = 0

    def heard(self, latents: int) -> None:
        """So many latents the session has by now."""
        self._latents = max(self._latents, latents)

    async def run(self) -> None:
        """Without end. Raises what ends the session: SessionClosed, Superseded."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self.tell()
            except StoreUnavailable as error:  # what was missed is counted once Redis is back
                log.warning("usage not told", error=error.message)

    async def tell(self) -> None:
        """Counts what was used until now."""
        await self._tenants.meter(
            self._session.session_id,
            self._session.tenant,
            self._epoch,
            self._latents,
            keep_s=self._keep_s,
            notice_s=self._notice_s,
        )
