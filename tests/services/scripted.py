"""Services of which a test says what their methods do: they need no starting, and are served by `serve`."""

from collections.abc import Sequence

import grpc

from livevideo.v1 import (
    control_pb2_grpc,
    engine_pb2_grpc,
    frame_pb2_grpc,
    session_pb2_grpc,
)


class Quiet:
    """A service that needs no starting."""

    name = "quiet"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class QuietControl(Quiet, control_pb2_grpc.ControlServiceServicer):
    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return ("livevideo.v1.ControlService",)


class QuietDecoder(Quiet, frame_pb2_grpc.FrameServiceServicer):
    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        frame_pb2_grpc.add_FrameServiceServicer_to_server(self, server)
        return ("livevideo.v1.FrameService",)


class QuietEngine(Quiet, engine_pb2_grpc.EngineServiceServicer):
    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        engine_pb2_grpc.add_EngineServiceServicer_to_server(self, server)
        return ("livevideo.v1.EngineService",)


class QuietSessions(Quiet, session_pb2_grpc.SessionServiceServicer):
    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, server)
        return ("livevideo.v1.SessionService",)


class QuietSeats(Quiet, session_pb2_grpc.SeatServiceServicer):
    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        session_pb2_grpc.add_SeatServiceServicer_to_server(self, server)
        return ("livevideo.v1.SeatService",)
