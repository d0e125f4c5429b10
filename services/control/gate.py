"""ControlGate: lets a control through, or says why not. No clock, no I/O: the caller says what time it is."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from livevideo.v1.control_pb2 import BodyPose, CameraPose, ControlEvent, Keys, Look, Prompt, Refused
from livevideo.v1.session_pb2 import Model

MAX_PROMPT_BYTES = 2000
MAX_JOINTS = 256
_PI = 3.1415927410125732  # pi as a float32, which is what a client that sends pi sends
_UNIT_TOLERANCE = 0.01  # of a quaternion's length


@dataclass
class _Bucket:
    """What may still be let through at once."""

    tokens: float
    filled_at_s: float | None = None


class ControlGate:
    """One session's gate. A refused control changes nothing: its seq may be used again."""

    def __init__(self, model: Model, *, controls_per_s: float = 200.0, burst: int = 100) -> None:
        """`burst`: controls that may come at once after a silence."""
        self._keys = frozenset(model.keys)
        self._tracks = frozenset(model.tracks)
        self.controls_per_s = controls_per_s
        self.burst = burst
        self._bucket = _Bucket(float(burst))
        self._newest_seq = 0

    def of_stream(self) -> Self:
        """The gate of one stream: floods are counted over all of a session's, numbers for each alone.

        What one let through may be lost behind it, and is then sent again on another, under its old number;
        what is really old, *sessions* refuses.
        """
        gate = copy.copy(self)
        gate._newest_seq = 0
        return gate

    def refusal(self, event: ControlEvent, now_s: float) -> Refused | None:
        """None lets it through and remembers its seq. `now_s` is any clock that does not go back."""
        refused = self._flooded(now_s) or self._old(event.seq) or self._off_track(event)
        if refused is None:
            self._newest_seq = event.seq
        return refused

    def _flooded(self, now_s: float) -> Refused | None:
        bucket = self._bucket
        passed_s = 0.0 if bucket.filled_at_s is None else max(0.0, now_s - bucket.filled_at_s)
        bucket.filled_at_s = now_s
        bucket.tokens = min(float(self.burst), bucket.tokens + passed_s * self.controls_per_s)
        if bucket.tokens < 1.0:
            limit = f"{self.controls_per_s:g} controls a second"
            return _refused("flood", f"more than {limit} came; send fewer, and this one again if it matters")
        bucket.tokens -= 1.0
        return None

    def _old(self, seq: int) -> Refused | None:
        if seq > self._newest_seq:
            return None
        return _refused("old_seq", f"seq {seq} is not above {self._newest_seq}, the newest; go on from there")

    def _off_track(self, event: ControlEvent) -> Refused | None:
        track = event.WhichOneof("track")
        if track is None:
            return _refused("no_track", "the event has no track; set keys, look, camera, body or prompt")
        if track not in self._tracks:
            return _refused("unknown_track", f"this model does not obey {track}; {_known(self._tracks)}")
        match track:
            case "keys":
                return self._bad_keys(event.keys)
            case "look":
                return _bad_look(event.look)
            case "camera":
                return _bad_camera(event.camera)
            case "body":
                return _bad_body(event.body)
            case "prompt":
                return _bad_prompt(event.prompt)

    def _bad_keys(self, keys: Keys) -> Refused | None:
        if len(keys.down) > len(self._keys):
            return _refused("out_of_range", f"{len(keys.down)} keys are down; there are {len(self._keys)}")
        for key in keys.down:
            if key not in self._keys:
                return _refused("unknown_key", f"this model has no key {key[:40]!r}; {_known(self._keys)}")
        return None


def _bad_look(look: Look) -> Refused | None:
    return _not_finite("look", (look.yaw_rad, look.pitch_rad)) or _outside(
        "look", (look.yaw_rad, look.pitch_rad), -_PI, _PI, "radians"
    )


def _bad_camera(camera: CameraPose) -> Refused | None:
    if len(camera.position_m) != 3 or len(camera.rotation) != 4:
        sizes = f"{len(camera.position_m)} and {len(camera.rotation)} numbers"
        return _refused("wrong_size", f"camera position and rotation have {sizes}; send 3 and 4")
    if refused := _not_finite("camera", (*camera.position_m, *camera.rotation, camera.fov_rad)):
        return refused
    length = math.hypot(*camera.rotation)
    if abs(length - 1.0) > _UNIT_TOLERANCE:
        return _refused("out_of_range", f"camera rotation has length {length:g}; send a unit quaternion")
    if not 0.0 <= camera.fov_rad < _PI:
        return _refused("out_of_range", f"camera fov_rad is {camera.fov_rad:g}; send 0 to below pi")
    return None


def _bad_body(body: BodyPose) -> Refused | None:
    count = len(body.joints)
    if count % 2 or not 0 < count <= 2 * MAX_JOINTS:
        return _refused("wrong_size", f"body has {count} numbers; send two a joint, 1 to {MAX_JOINTS} joints")
    return _not_finite("body", body.joints) or _outside("body", body.joints, 0.0, 1.0, "of the picture")


def _bad_prompt(prompt: Prompt) -> Refused | None:
    size_bytes = len(prompt.text.encode())
    if size_bytes <= MAX_PROMPT_BYTES:
        return None
    return _refused("too_long", f"the prompt has {size_bytes} bytes; send at most {MAX_PROMPT_BYTES}")


def _not_finite(track: str, values: Iterable[float]) -> Refused | None:
    if all(math.isfinite(value) for value in values):
        return None
    return _refused("not_finite", f"{track} holds a value that is not a finite number; send finite ones")


def _outside(track: str, values: Iterable[float], low: float, high: float, unit: str) -> Refused | None:
    for value in values:
        if not low <= value <= high:
            return _refused("out_of_range", f"{track} holds {value:g}; send {low:.6g} to {high:.6g} {unit}")
    return None


def _known(names: frozenset[str]) -> str:
    return f"it has: {', '.join(sorted(names)) or 'none'}"


def _refused(reason: str, message: str) -> Refused:
    return Refused(reason=reason, message=message)
