"""Pictures as bytes, and back."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from livevideo.v1.frame_pb2 import (
    FRAME_FORMAT_H264,
    FRAME_FORMAT_JPEG,
    FRAME_FORMAT_RGB8,
    FRAME_FORMAT_UNSPECIFIED,
)
from livevideo.v1.session_pb2 import Model
from services.decoder.encoders import encoder_for
from services.errors import BadRequest

ROAD = Model(name="road", width_px=128, height_px=80, frames_per_second=24)


def moving(frames: int) -> list[np.ndarray]:
    pictures = np.full((frames, 80, 128, 3), (90, 200, 90), np.uint8)
    for i, picture in enumerate(pictures):
        picture[30:50, 2 * i : 2 * i + 20] = (200, 20, 20)
    return list(pictures)


def test_raw_frames_are_the_pixels_row_by_row() -> None:
    frame = moving(1)[0]
    assert (
        encoder_for(FRAME_FORMAT_RGB8, ROAD, jpeg_quality=90, key_period_s=2).encode(frame).content
        == frame.tobytes()
    )


@pytest.mark.parametrize("wanted", [FRAME_FORMAT_JPEG, FRAME_FORMAT_UNSPECIFIED])
def test_jpeg_is_close_to_the_picture_and_is_what_comes_where_nothing_was_said(wanted: int) -> None:
    frame = moving(1)[0]
    encoder = encoder_for(wanted, ROAD, jpeg_quality=90, key_period_s=2)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(encoder.encode(frame).content)) as opened:
        assert np.abs(np.array(opened).astype(int) - frame).mean() < 3
    assert encoder.format == FRAME_FORMAT_JPEG


def test_h264_gives_each_frame_at_once_and_decodes_back() -> None:
    frames = moving(30)
    encoder = encoder_for(FRAME_FORMAT_H264, ROAD, jpeg_quality=90, key_period_s=1)
    pictures = [encoder.encode(frame) for frame in frames]
    assert [i for i, picture in enumerate(pictures) if picture.is_key] == [0, 24]
    assert (
        pictures[24].content.count(b"\x00\x00\x01\x67") == 1
    )  # parameters come again, so that one may join here
    decoder = av.CodecContext.create("h264", "r")
    decoded = []
    for picture in pictures:
        decoded += decoder.decode(av.Packet(picture.content))
    decoded += decoder.decode(None)
    assert len(decoded) == 30
    last = decoded[-1].to_ndarray(format="rgb24").astype(int)
    assert np.abs(last - frames[-1]).mean() < 8


def test_a_format_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadRequest, match=r"start\.format.*FRAME_FORMAT_H264"):
        encoder_for(9, ROAD, jpeg_quality=90, key_period_s=2)  # type: ignore[arg-type]
