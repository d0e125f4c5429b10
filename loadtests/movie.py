"""What a player saw, as numbers and as a film."""

import io
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from livevideo.v1.session_pb2 import Model

LARGER = 4


def to_rgb(picture: bytes, picture_format: str, model: Model) -> np.ndarray:
    """A frame's picture as [h, w, 3] uint8."""
    if picture_format == "rgb8":
        return np.frombuffer(picture, np.uint8).reshape(model.height_px, model.width_px, 3)
    with Image.open(io.BytesIO(picture)) as opened:
        return np.array(opened.convert("RGB"))


class Movie:
    """An MP4, each pixel four times as large, so that small worlds can be seen."""

    def __init__(self, path: Path, frames_per_second: int = 24) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream: VideoStream = self._container.add_stream("libx264", rate=frames_per_second)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "16"}

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, [h, w, 3] uint8."""
        large = frame.repeat(LARGER, 0).repeat(LARGER, 1)
        self._stream.height, self._stream.width = large.shape[:2]
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
