"""Frames as a film that any player shows."""

from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from aapt.shapes import Frames


def save_film(path: Path, frames: Frames, frames_per_second: float) -> None:
    """Write an MP4 (H.264). Width and height must be even."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream: VideoStream = container.add_stream("libx264", rate=Fraction(frames_per_second))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
