"""Plays worlds that answer the keys.

    import livevideo_client

    with livevideo_client.play("127.0.0.1:50051") as world:
        world.hold("up")
        for frame in world:
            ...  # frame.index, frame.picture, frame.control_seq

With asyncio it is `Client`, which has `open`, `wait` and `join`, and gives a `World`.
"""

from livevideo_client.access import Services
from livevideo_client.blocking import BlockingWorld, play
from livevideo_client.client import Client
from livevideo_client.refusals import (
    BadCertificate,
    BadRequest,
    ControlRefused,
    NoRoom,
    NotAllowed,
    NotKnown,
    Refused,
    SeatTaken,
    SessionEnded,
    Unavailable,
)
from livevideo_client.steering import Control
from livevideo_client.world import World

__all__ = [
    "BadCertificate",
    "BadRequest",
    "BlockingWorld",
    "Client",
    "Control",
    "ControlRefused",
    "NoRoom",
    "NotAllowed",
    "NotKnown",
    "Refused",
    "SeatTaken",
    "Services",
    "SessionEnded",
    "Unavailable",
    "World",
    "play",
]
