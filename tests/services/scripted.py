"""Services of which a test says what their methods do."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from livevideo.v1 import control_pb2_grpc, engine_pb2_grpc, frame_pb2_grpc, session_pb2_grpc

_BINDINGS: dict[str, tuple[type, Callable[[Any, grpc.aio.Server], None]]] = {
    "livevideo.v1.ControlService": (
        control_pb2_grpc.ControlServiceServicer,
        control_pb2_grpc.add_ControlServiceServicer_to_server,
    ),
    "livevideo.v1.EngineService": (
        engine_pb2_grpc.EngineServiceServicer,
        engine_pb2_grpc.add_EngineServiceServicer_to_server,
    ),
    "livevideo.v1.FrameService": (
        frame_pb2_grpc.FrameServiceServicer,
        frame_pb2_grpc.add_FrameServiceServicer_to_server,
    ),
    "livevideo.v1.SeatService": (
        session_pb2_grpc.SeatServiceServicer,
        session_pb2_grpc.add_SeatServiceServicer_to_server,
    ),
    "livevideo.v1.SessionService": (
        session_pb2_grpc.SessionServiceServicer,
        session_pb2_grpc.add_SessionServiceServicer_to_server,
    ),
}


class Scripted:
    """Needs no starting, and is every service of ours whose servicer it is."""

    name = "scripted"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        bound = []
        for name, (servicer, add) in _BINDINGS.items():
            if isinstance(self, servicer):
                add(self, server)
                bound.append(name)
        return bound
