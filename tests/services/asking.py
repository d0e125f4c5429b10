"""How tests ask *sessions*, and what it answers."""

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    FollowRequest,
    FollowResponse,
    OpenRequest,
    Seat,
    Session,
)
from services import errors
from services.relay import from_status

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SeatServiceAsyncStub as Seats
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub as Public
else:
    from livevideo.v1.session_pb2_grpc import SeatServiceStub as Seats
    from livevideo.v1.session_pb2_grpc import SessionServiceStub as Public


class Sessions(Public, Seats):
    """All methods of *sessions*, as a test calls them: at a port that has them all."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        Public.__init__(self, channel)
        Seats.__init__(self, channel)


DEADLINE_S = 20.0
LEFT = Keys(down=["left"])


async def refused(call: object) -> errors.ServiceError:
    """The refusal that a gRPC call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, DEADLINE_S)  # type: ignore[arg-type]
    refusal = from_status(caught.value)
    assert refusal is not None, caught.value
    assert refusal.code is caught.value.code()
    return refusal


def control(seq: int, session_id: str = "") -> FollowResponse:
    return FollowResponse(event=ControlEvent(session_id=session_id, seq=seq, keys=LEFT), received_at_s=1.5)


async def following(
    stub: Sessions, session_id: str, epoch: int, after_seq: int = 0
) -> "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]":
    call = stub.Follow()
    await call.write(FollowRequest(seat=Seat(session_id=session_id, epoch=epoch, after_seq=after_seq)))
    return call


async def opened_and_claimed(stub: Sessions, announcement: AnnounceRequest) -> Session:
    await stub.Announce(announcement)
    session = await stub.Open(OpenRequest())
    return await stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
