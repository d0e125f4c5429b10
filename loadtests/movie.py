"""What a player saw, as a film."""

import io
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from livevideo.v1.session_pb2 import Model


def to_rgb(picture: bytes, picture_format: str, model: Model) -> np.ndarray:
    """A frame's picture as [h, w, 3] uint8."""
    if picture_format == "rgb8":
        return np.frombuffer(picture, np.uint8).reshape(model.height_px, model.width_px, 3)
    with Image.open(io.BytesIO(picture)) as opened:
        return np.array(opened.convert("RGB"))


class Movie(Protocol):
    """A film that is being made."""

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, [h, w, 3] uint8."""

    def close(self) -> None:
        """Finish the file."""


def movie_at(path: Path) -> Movie:
    """A moving picture (WebP) where the name ends so, which a page shows as it is; an MP4 otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return WebP(path) if path.suffix == ".webp" else Mp4(path)


class WebP:
    """Every second frame, three times as large, again and again."""

    LARGER = 3
    MILLISECONDS = 83

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[Image.Image] = []
        self._seen = 0

    def add(self, frame: np.ndarray) -> None:
        self._seen += 1
        if self._seen % 2:
            self._frames.append(Image.fromarray(frame.repeat(self.LARGER, 0).repeat(self.LARGER, 1)))

    def close(self) -> None:
        if self._frames:
            first, *others = self._frames
            first.save(
                self._path,
                save_all=True,
                append_images=others,
                duration=self.MILLISECONDS,
                loop=0,
                quality=60,
            )


class Mp4:
    """Each pixel four times as large, so that small worlds can be seen."""

    LARGER = 4

    def __init__(self, path: Path, frames_per_second: int = 24) -> None:
        self._container = av.open(str(path), "w")
        self._stream: VideoStream = self._container.add_stream("libx264", rate=frames_per_second)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "16"}

    def add(self, frame: np.ndarray) -> None:
        large = frame.repeat(self.LARGER, 0).repeat(self.LARGER, 1)
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = large.shape[:2]
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
