"""First pictures: read within bounds of bytes, pixels, passes and time, and stored as plain pixels.

What a file claims is read from its header before anything is decoded, by Pillow's PNG and JPEG readers alone.
"""

import asyncio
import io
import struct
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, JpegImagePlugin, PngImagePlugin

from livevideo.v1.session_pb2 import Model
from services.errors import BadRequest, TooBusy

MAX_IMAGE_BYTES = 4 << 20
MAX_PARTS = 1024  # chunks of a PNG, segments of a JPEG: each costs time, however small it is
MAX_WAITING = 32  # pictures in line
MAX_SCANS = 64  # of a progressive JPEG: each goes over the whole picture; encoders write ten or so
DECODE_S = 5.0  # longest wait, in line and for the decoder

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_UNREADABLE = (OSError, ValueError, SyntaxError, IndexError, struct.error, Image.DecompressionBombError)


class Pictures:
    """Reads pictures in threads of its own, so that nothing else waits behind a slow one."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, "picture")
        self._waiting = 0

    async def plain(self, encoded: bytes, model: Model) -> bytes:
        """The picture as an RGB PNG and nothing else.

        Raises TooBusy, and BadRequest unless it has the model's size.
        """
        if self._waiting >= MAX_WAITING:
            raise TooBusy(f"{self._waiting} pictures wait to be read; try again soon", retry_after_s=1.0)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._threads, plain, encoded, model.width_px, model.height_px)
        try:
            return await asyncio.wait_for(reading, DECODE_S)
        except TimeoutError as error:
            raise BadRequest(
                "image", f"could not be read within {DECODE_S:g} s; send it again, or a plainer file"
            ) from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def plain(encoded: bytes, width_px: int, height_px: int) -> bytes:
    """Decodes only what its header says is a PNG or JPEG of exactly this size. Raises BadRequest."""
    if len(encoded) > MAX_IMAGE_BYTES:
        raise BadRequest("image", f"has {len(encoded)} bytes; send at most {MAX_IMAGE_BYTES}")
    wanted = f"this model takes {width_px}x{height_px}"
    try:
        picture = _opened(encoded)
    except _UNREADABLE as error:
        raise BadRequest("image", "is not a PNG or JPEG file; send one of these") from error
    with picture:
        if picture.size != (width_px, height_px):
            width, height = picture.size
            raise BadRequest("image", f"is {width}x{height}; {wanted}: resize it")
        try:
            pixels = picture.convert("RGB").tobytes()
        except _UNREADABLE as error:
            raise BadRequest("image", "is cut short or damaged; send the whole file") from error
    stored = io.BytesIO()
    # From the pixels alone: a picture that was read would bring its colour profile along.
    Image.frombytes("RGB", (width_px, height_px), pixels).save(stored, "PNG")
    return stored.getvalue()


def _opened(encoded: bytes) -> Image.Image:
    """By one of two readers: through `Image.open` a JPEG may become a file of another format."""
    if encoded.startswith(_PNG):
        _check_count("chunks", _png_chunks(encoded), MAX_PARTS)
        return PngImagePlugin.PngImageFile(io.BytesIO(encoded))
    if not encoded.startswith(_JPEG):
        raise ValueError("neither PNG nor JPEG")
    _check_count("segments", _jpeg_segments(encoded), MAX_PARTS)
    _check_count("scans", encoded.count(b"\xff\xda"), MAX_SCANS)
    return JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise BadRequest("image", f"has more than {most} {what}; save it with a plain encoder, as a PNG")


def _png_chunks(encoded: bytes) -> int:
    """How many there are; more than MAX_PARTS are not counted."""
    count, at = 0, len(_PNG)
    while at + 8 <= len(encoded) and count <= MAX_PARTS:
        count, at = count + 1, at + 12 + int.from_bytes(encoded[at : at + 4], "big")
    return count


def _jpeg_segments(encoded: bytes) -> int:
    """How many there are before the first scan; more than MAX_PARTS are not counted."""
    count, at = 0, 2
    while encoded[at : at + 1] == b"\xff" and encoded[at + 1 : at + 2] != b"\xda" and count <= MAX_PARTS:
        count, at = count + 1, at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return count
