"""What is fuzzed: each target takes any bytes, as strangers send them, and fails where a promise breaks."""

import io
import math
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from PIL import Image

from livevideo.v1.control_pb2 import ControlEvent
from livevideo.v1.engine_pb2 import GenerateRequest
from livevideo.v1.frame_pb2 import WatchRequest
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    FollowRequest,
    Model,
    OpenRequest,
    PushRequest,
    Session,
)
from services.control.gate import MAX_PROMPT_BYTES, ControlGate
from services.engine.latents import to_past
from services.errors import BadRequest, BadSetting
from services.sessions import admission
from services.sessions.connection import check_url
from services.sessions.pictures import plain
from services.web.player import _keys, _parse

M = TypeVar("M", bound=Message)
T = TypeVar("T")

TRACKS = ["keys", "look", "camera", "body", "prompt"]
ROAD = Model(name="road", width_px=16, height_px=12, frames_per_second=24, keys=["up", "down"], tracks=TRACKS)
SENTENCE_CHARACTERS = 800  # no refusal echoes more than a little of what was sent
MESSAGES: tuple[type[Message], ...] = (
    ControlEvent,
    WatchRequest,
    GenerateRequest,
    PushRequest,
    FollowRequest,
    ClaimRequest,
    Session,
)


def gate(sent: bytes) -> None:
    """A control is let through or refused in a sentence; what is let through can be obeyed."""
    event = _read(ControlEvent, sent)
    if event is None:
        return
    refused = ControlGate(ROAD).refusal(event, 0.0)
    if refused is not None:
        assert refused.reason
        assert 0 < len(refused.message) < SENTENCE_CHARACTERS
        return
    assert event.seq > 0
    assert set(event.keys.down) <= set(ROAD.keys)
    numbers = (*event.camera.position_m, *event.camera.rotation, event.look.yaw_rad, *event.body.joints)
    assert all(math.isfinite(number) for number in numbers)
    assert len(event.prompt.text.encode()) <= MAX_PROMPT_BYTES


def picture(sent: bytes) -> None:
    """A picture is a plain PNG of the model's size afterwards, or a bad request."""
    stored = _unless_refused(lambda: plain(sent, ROAD.width_px, ROAD.height_px))
    if stored is not None:
        with Image.open(io.BytesIO(stored), formats=("PNG",)) as read:
            assert (read.size, read.mode, read.info) == ((16, 12), "RGB", {})


def message(sent: bytes) -> None:
    """Requests are read, and checked, without anything but a bad request."""
    for kind in MESSAGES:
        _read(kind, sent)
    if opened := _read(OpenRequest, sent):
        _unless_refused(lambda: admission.check_open(opened))
    if announced := _read(AnnounceRequest, sent):
        _unless_refused(lambda: admission.check_announce(announced))
    if (generate := _read(GenerateRequest, sent)) and generate.HasField("start"):
        _unless_refused(lambda: to_past(generate.start.past, 2))


def page(sent: bytes) -> None:
    """What a page says is JSON that is understood, or a bad request."""
    said = _unless_refused(lambda: _parse(sent.decode(errors="replace")))
    if isinstance(said, dict) and isinstance(said.get("down"), list):
        _unless_refused(lambda: _keys(said["down"]))


def url(sent: bytes) -> None:
    """The address of a Redis is one, or a bad setting that does not tell the password."""
    text = sent.decode(errors="replace").replace("secret", "") + ":secret@127.0.0.1"
    assert "secret" not in _refusal(lambda: check_url(text))


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (gate, picture, message, page, url)
}


def _read(kind: type[M], sent: bytes) -> M | None:
    try:
        return kind.FromString(sent)
    except DecodeError:
        return None


def _unless_refused(call: Callable[[], T]) -> T | None:
    found: list[T] = []
    assert len(_refusal(lambda: found.append(call()))) < SENTENCE_CHARACTERS
    return found[0] if found else None


def _refusal(call: Callable[[], object]) -> str:
    """What a bad request or setting is told; empty: it is none."""
    try:
        call()
    except (BadRequest, BadSetting) as refusal:
        return refusal.message
    return ""
