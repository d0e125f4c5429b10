"""`Openings`: how long it takes to open a session, or to refuse it, and what became of those who asked."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services import telemetry
from services.errors import NoEngine, PeerUnavailable, ServiceError, ServiceStopping, StoreUnavailable
from services.sessions.brake import Brake

# A service is missing. Seats and quotas that are used up, and what a request has wrong, are another matter.
_WANTING = (NoEngine, PeerUnavailable, StoreUnavailable)


@dataclass
class Opening:
    """Who asks, and what they get, as far as it is known.

    asker: as they have shown; where nobody is asked for a key, `tenant` is what they say.
    """

    asker: str = ""
    tenant: str = ""
    model: str = ""


class Openings:
    """Counts a refusal by a model's name only where that model was opened before: names can be made up."""

    def __init__(self, brake: Brake) -> None:
        self._brake = brake
        self._served: set[str] = set()

    @asynccontextmanager
    async def deciding(self, asked: str, *, is_timed: bool = True) -> AsyncGenerator[Opening, None]:
        """asked: the model's name; empty: the only one there is. is_timed: not where somebody may queue.

        What is refused is held back as the brake says; that is not part of the decision's time.
        """
        is_braked = False
        begun_s, outcome, opening = time.perf_counter(), "left", Opening()
        try:
            yield opening
        except Exception as error:
            is_braked = isinstance(error, ServiceError) and not isinstance(error, ServiceStopping)
            outcome = error.reason if isinstance(error, ServiceError) else "internal"
            if not isinstance(error, ServiceError) or isinstance(error, _WANTING):
                self._count(opening.tenant, self._name(asked), "not_opened")
            raise
        else:
            outcome = "opened"
            self._served.add(opening.model)
            self._count(opening.tenant, opening.model, "opened")
        finally:
            if is_timed:
                telemetry.ADMISSION.labels(outcome).observe(time.perf_counter() - begun_s)
            if is_braked:
                await asyncio.sleep(self._brake.wait_s(opening.asker))

    def _name(self, asked: str) -> str:
        only = next(iter(self._served)) if len(self._served) == 1 else ""
        return asked if asked in self._served else only if not asked else ""

    def _count(self, tenant: str, model: str, became: str) -> None:
        tenant = telemetry.tenant_label(tenant)
        for each in ("opened", "not_opened"):  # both exist from the first one on
            telemetry.SESSION_OUTCOMES.labels(tenant, model, each)
        telemetry.SESSION_OUTCOMES.labels(tenant, model, became).inc()
