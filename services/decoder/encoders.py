"""Encoders: how a frame's picture is written. One belongs to one viewer and sees every frame in its order."""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray
from PIL import Image

from livevideo.v1.frame_pb2 import (
    FRAME_FORMAT_H264,
    FRAME_FORMAT_JPEG,
    FRAME_FORMAT_RGB8,
    FRAME_FORMAT_UNSPECIFIED,
    FrameFormat,
)
from livevideo.v1.session_pb2 import Model
from services.errors import BadRequest

Pixels = NDArray[np.uint8]  # [h, w, 3]


@dataclass(frozen=True)
class Picture:
    """One encoded frame."""

    content: bytes
    is_key: bool  # a decoder can start with it


class Encoder(Protocol):
    """Writes one viewer's frames."""

    @property
    def format(self) -> FrameFormat.ValueType:
        """The format that it writes."""
        ...

    def encode(self, frame: Pixels) -> Picture:
        """The session's next frame. Called from one thread at a time."""
        ...


class Rgb8:
    """Raw bytes, row by row."""

    format = FRAME_FORMAT_RGB8

    def encode(self, frame: Pixels) -> Picture:
        return Picture(frame.tobytes(), is_key=True)


class Jpeg:
    """One JPEG file a frame."""

    format = FRAME_FORMAT_JPEG

    def __init__(self, quality: int) -> None:
        self._quality = quality

    def encode(self, frame: Pixels) -> Picture:
        written = io.BytesIO()
        # Colour at full resolution: thin kerbs and small cars are mostly colour.
        Image.fromarray(frame).save(written, "JPEG", quality=self._quality, subsampling=0)
        return Picture(written.getvalue(), is_key=True)


class H264:
    """Annex B; each frame one access unit that can be shown at once, with SPS and PPS on every key frame."""

    format = FRAME_FORMAT_H264

    def __init__(self, width_px: int, height_px: int, frames_per_second: float, key_period_s: float) -> None:
        rate = Fraction(frames_per_second).limit_denominator(1001)
        codec = av.CodecContext.create("libx264", "w")
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt = width_px, height_px, "yuv420p"
        codec.framerate, codec.time_base = rate, 1 / rate
        codec.gop_size = max(1, round(key_period_s * frames_per_second))
        codec.max_b_frames = 0
        # One thread: pictures are small, and slices for several threads cost bytes.
        codec.thread_count = 1
        codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": "20",
            # Said in the stream, so that no player has to guess what the colours mean.
            "x264-params": "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m:scenecut=0",
        }
        self._codec = codec
        self._next = 0

    def encode(self, frame: Pixels) -> Picture:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = self._next, self._codec.time_base
        self._next += 1
        packets = self._codec.encode(picture)
        if len(packets) != 1:
            raise RuntimeError(
                f"libx264 gave {len(packets)} packets for one frame; it must not hold frames back"
            )
        return Picture(bytes(packets[0]), packets[0].is_keyframe)


def encoder_for(
    wanted: FrameFormat.ValueType, model: Model, *, jpeg_quality: int, key_period_s: float
) -> Encoder:
    """The encoder for a format; JPEG where none is named. Raises BadRequest where we do not have it."""
    if wanted in (FRAME_FORMAT_JPEG, FRAME_FORMAT_UNSPECIFIED):
        return Jpeg(jpeg_quality)
    if wanted == FRAME_FORMAT_RGB8:
        return Rgb8()
    if wanted == FRAME_FORMAT_H264:
        return H264(model.width_px, model.height_px, model.frames_per_second, key_period_s)
    known = ", ".join(name for name in FrameFormat.keys() if name != "FRAME_FORMAT_UNSPECIFIED")  # noqa: SIM118
    raise BadRequest("start.format", f"{wanted} is no frame format; choose one of {known}")
