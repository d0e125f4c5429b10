"""A place in the queue, held for as long as its call is open."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from livevideo.v1.session_pb2 import Place, Session, WaitResponse
from services.errors import EngineFull, NoEngine, ServiceError
from services.sessions.keys import new_session_id
from services.sessions.store import SessionStore
from services.sessions.tenancy import Entrant
from services.sessions.tenants import TenantStore

ALIVE_S = 5.0  # a place whose call has vanished is given up
_FRONT = 4  # so many are asked more often than the others
_SOON_S, _LATER_S = 0.2, 1.0
_TOLD_EVERY_S = 5.0  # the expected wait changes with time, too


def next_look_s(position: int) -> float:
    """How long until a place in the queue is looked at again."""
    return _SOON_S if position <= _FRONT else _LATER_S


async def until_seated(
    store: SessionStore,
    tenants: TenantStore,
    record: Session,
    entrant: Entrant,
    *,
    most: int,
    most_of_tenant: int,
) -> AsyncGenerator[WaitResponse, None]:
    """The place whenever it changes, then the session. `most`, `most_of_tenant`: who may wait at once."""
    session_id, is_waiting = new_session_id(record.model.name), True
    clock = asyncio.get_running_loop().time
    told_position, told_at_s = 0, 0.0
    try:
        while True:
            position, expected_s = await tenants.wait(
                session_id, entrant, alive_s=ALIVE_S, most=most, most_of_tenant=most_of_tenant
            )
            if position == 0:
                with suppress(EngineFull, NoEngine):  # a seat has gone in the meantime, with its engine
                    session = await store.open(record, entrant, session_id)
                    break
            elif position != told_position or clock() - told_at_s >= _TOLD_EVERY_S:
                told_position, told_at_s = position, clock()
                yield WaitResponse(place=Place(position=position, expected_wait_s=expected_s))
            await asyncio.sleep(next_look_s(position))
        is_waiting = False
        # Who is gone by now leaves a session that expires. It is not ended: the answer may have arrived.
        yield WaitResponse(session=session)
    finally:
        if is_waiting:
            with suppress(ServiceError):
                await tenants.quit(session_id, entrant)
