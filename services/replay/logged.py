"""A session's log, as *sessions* kept it."""

from dataclasses import dataclass, field

from aapt.checkpoint import Model
from livevideo.v1.log_pb2 import LogEntry, ReadRequest
from livevideo.v1.log_pb2_grpc import LogServiceStub
from livevideo.v1.session_pb2 import Session
from services.app import open_channel
from services.engine.steering import values_per_frame
from services.engine.world import on_one_device
from services.replay.again import Again, CannotReplay
from services.tls import Tls


@dataclass
class Logged:
    """session: as it was opened. is_whole: False where its tenant's room was full before it ended."""

    session: Session = field(default_factory=Session)
    entries: list[LogEntry] = field(default_factory=list)
    is_whole: bool = True

    def played_again(self, model: Model, device: str = "cpu") -> Again:
        """Raises CannotReplay, BadSetting."""
        played, name = self.session.model.name, model.preset.name
        if not self.entries:
            raise CannotReplay("the log holds nothing; its tenant's room was full when the session began")
        if played != name:
            raise CannotReplay(f"the session is of model {played}, this is {name}; give its --checkpoint")
        values = values_per_frame(self.session.model.keys, self.session.model.tracks)
        again = Again(on_one_device(model, 1, device), self.session, values)
        again.play(self.entries)
        return again


async def read(address: str, session_id: str, tls: Tls | None = None) -> Logged:
    """address: the internal one of *sessions*; tls: what it is shown. Raises AioRpcError, BadSetting."""
    logged = Logged()
    async with open_channel(address, tls) as channel:
        async for part in LogServiceStub(channel).Read(ReadRequest(session_id=session_id)):
            match part.WhichOneof("part"):
                case "session":
                    logged.session = part.session
                case "entry":
                    logged.entries.append(part.entry)
                case "full":
                    logged.is_whole = False
    return logged
