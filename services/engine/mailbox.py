"""`Mailbox`: where one session's controls wait for the tick."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from livevideo.v1.control_pb2 import BodyPose, CameraPose, ControlEvent
from livevideo.v1.engine_pb2 import Latent


@dataclass(frozen=True)
class Traced:
    """A control that is traced."""

    seq: int
    traceparent: str
    arrived_at_s: float  # in the mailbox, since 1970


@dataclass(frozen=True)
class Turn:
    """What one tick takes out of a mailbox."""

    keys: tuple[float, ...]  # 1 where a key is held or was tapped, in the model's order
    control_seq: int  # number of the newest control that is obeyed; 0: none yet
    seqs: tuple[int, ...] = ()  # controls that this tick is the first to obey
    received_at_s: float = 0.0  # when *control* received the newest of `seqs`, since 1970; 0: there is none
    path_s: float = 0.0  # how long that one took from *control* to the mailbox
    arrived_at_s: float = 0.0  # when it arrived, by the engine's clock
    yaw_rad: float = 0.0  # turned since the last tick
    pitch_rad: float = 0.0
    camera: CameraPose | None = None
    body: BodyPose | None = None
    prompt: str | None = None  # a new one; None: it has not changed
    held: tuple[str, ...] = ()  # keys that are down afterwards
    standing_prompt: str = ""  # the prompt in force; empty: the model's own
    traced: tuple[Traced, ...] = ()  # those of `seqs` that are traced


@dataclass
class _Waiting:
    """What has come since the last tick."""

    pressed: set[str] = field(default_factory=set)
    seqs: list[int] = field(default_factory=list)
    traced: list[Traced] = field(default_factory=list)
    received_at_s: float = 0.0
    path_s: float = 0.0
    arrived_at_s: float = 0.0
    yaw_rad: float = 0.0
    pitch_rad: float = 0.0


def still(keys: Sequence[str]) -> Turn:
    """A turn in which nothing is pressed."""
    return Turn(keys=(0.0,) * len(keys), control_seq=0)


class Mailbox:
    """Keys are held, taps kept until one tick has seen them, angles add up, and of the rest the newest wins.

    A world that begins again brings `obeyed_seq`: controls up to that number come again, to tell what is held
    now, but have been obeyed already.
    """

    def __init__(self, keys: Sequence[str], *, prompt: str = "", obeyed_seq: int = 0) -> None:
        self._keys = tuple(keys)
        self._held: frozenset[str] = frozenset()
        self._obeyed_seq = obeyed_seq
        self._newest_seq = 0
        self._camera: CameraPose | None = None
        self._body: BodyPose | None = None
        self._prompt: str | None = None
        self._standing_prompt = prompt
        self._waiting = _Waiting()

    @classmethod
    def after(cls, keys: Sequence[str], latent: Latent) -> Self:
        """That of a session which goes on after `latent`, made elsewhere: it knows what was held then."""
        held = latent.held
        mailbox = cls(keys, prompt=held.prompt, obeyed_seq=latent.control_seq)
        mailbox._newest_seq = latent.control_seq
        mailbox._held = frozenset(held.keys)
        mailbox._camera = held.camera if held.HasField("camera") else None
        mailbox._body = held.body if held.HasField("body") else None
        return mailbox

    @property
    def newest_seq(self) -> int:
        """Number of the newest control that has come. 0: none has."""
        return self._newest_seq

    def put(self, event: ControlEvent, *, received_at_s: float, path_s: float, now_s: float) -> None:
        """Take in a control. One that has come before changes nothing."""
        if event.seq <= self._newest_seq:
            return
        self._newest_seq = event.seq
        is_new = event.seq > self._obeyed_seq
        waiting = self._waiting
        match event.WhichOneof("track"):
            case "keys":
                down = frozenset(event.keys.down)
                if is_new:
                    waiting.pressed |= down - self._held
                self._held = down
            case "look" if is_new:
                waiting.yaw_rad += event.look.yaw_rad
                waiting.pitch_rad += event.look.pitch_rad
            case "camera":
                self._camera = event.camera
            case "body":
                self._body = event.body
            case "prompt":
                self._prompt = event.prompt.text
        if is_new:
            waiting.seqs.append(event.seq)
            waiting.received_at_s, waiting.path_s, waiting.arrived_at_s = received_at_s, path_s, now_s
            if event.traceparent:
                waiting.traced.append(Traced(event.seq, event.traceparent, received_at_s + path_s))

    def take(self) -> Turn:
        """What the next latent must obey; what has come since the last call counts as obeyed from now on."""
        waiting, self._waiting = self._waiting, _Waiting()
        prompt, self._prompt = self._prompt, None
        if prompt is not None:
            self._standing_prompt = prompt
        down = self._held | waiting.pressed
        self._obeyed_seq = max(self._obeyed_seq, self._newest_seq)
        return Turn(
            keys=tuple(float(key in down) for key in self._keys),
            control_seq=self._obeyed_seq,
            seqs=tuple(waiting.seqs),
            received_at_s=waiting.received_at_s,
            path_s=waiting.path_s,
            arrived_at_s=waiting.arrived_at_s,
            yaw_rad=waiting.yaw_rad,
            pitch_rad=waiting.pitch_rad,
            camera=self._camera,
            body=self._body,
            prompt=prompt,
            held=tuple(key for key in self._keys if key in self._held),
            standing_prompt=self._standing_prompt,
            traced=tuple(waiting.traced),
        )
