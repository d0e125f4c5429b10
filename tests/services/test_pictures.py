"""First pictures: what is too much of a file is refused before it is decoded, and quickly."""

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from livevideo.v1.session_pb2 import Model
from services.errors import BadRequest, TooBusy
from services.sessions.pictures import MAX_WAITING, Pictures, plain

SIZE = (1280, 704)
QUICK_S = 1.0  # of the processor's own time


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*extra: bytes, size: tuple[int, int] = SIZE, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *extra, chunk(b"IDAT", pixels), chunk(b"IEND")))


def zipped(size_bytes: int) -> bytes:
    """So many zeros, a thousandth of it in bytes."""
    return zlib.compress(bytes(size_bytes))


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, SIZE).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (png(size=(60_000, 60_000)), "60000x60000"),
        (png(size=(2**31 - 1, 2**31 - 1)), "is 2147483647x2147483647"),
        (png(chunk(b"zTXt", b"a\0\0" + zipped(1 << 24))), "not a PNG or JPEG"),
        (png(*[chunk(b"zTXt", b"a\0\0" + zipped(1 << 20))] * 100), "not a PNG or JPEG"),
        (png(chunk(b"iCCP", b"a\0\0" + zipped(1 << 24))), "not a PNG or JPEG"),
        (png(*[chunk(b"tEXt", b"a\0b")] * 200_000), "more than 1024 chunks"),
        (encoded("JPEG")[:2] + b"\xff\xfe\0\2" * 900_000 + encoded("JPEG")[2:], "more than 1024 segments"),
        (encoded("JPEG")[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 100_000, "more than 64 scans"),
        (bytes(5 << 20), "send at most"),
        (encoded("PNG")[:-40], "cut short"),
        (encoded("GIF"), "not a PNG or JPEG"),
        (encoded("WEBP"), "not a PNG or JPEG"),
        (encoded("TIFF"), "not a PNG or JPEG"),
        (b"\xff\xd8\xff", "not a PNG or JPEG"),
        (b"", "not a PNG or JPEG"),
    ],
)
def test_a_file_that_asks_for_too_much_is_refused_at_once(sent: bytes, told: str) -> None:
    began_s = time.process_time()
    with pytest.raises(BadRequest, match=told):
        plain(sent, *SIZE)
    assert time.process_time() - began_s < QUICK_S


def test_pixels_beyond_the_picture_are_not_inflated() -> None:
    """An eighth of a GB of them in an eighth of a MB; the picture needs the first 3 MB."""
    bomb = png(pixels=zipped(1 << 27))
    began_s = time.process_time()
    stored = plain(bomb, *SIZE)
    assert time.process_time() - began_s < QUICK_S
    with Image.open(io.BytesIO(stored)) as read:
        assert read.size == SIZE


@pytest.mark.parametrize(
    "sent",
    [
        encoded("PNG", "P"), encoded("PNG", "LA"), encoded("PNG", "I;16"), encoded("JPEG", "CMYK"),
        encoded("JPEG", progressive=True), encoded("JPEG", "L"), encoded("MPO"),
    ],
)  # fmt: skip
def test_whatever_a_picture_was_it_is_plain_pixels_afterwards(sent: bytes) -> None:
    with Image.open(io.BytesIO(plain(sent, *SIZE))) as read:
        assert (read.format, read.mode, read.size, read.info) == ("PNG", "RGB", SIZE, {})


async def test_more_pictures_than_can_be_read_are_refused_with_a_time_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = Pictures(threads=1)
    monkeypatch.setattr(pictures, "_waiting", MAX_WAITING)
    with pytest.raises(TooBusy) as refusal:
        await pictures.plain(encoded("PNG"), Model(width_px=SIZE[0], height_px=SIZE[1]))
    assert refusal.value.retry_after_s
    pictures.close()


async def test_a_picture_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sessions.pictures.DECODE_S", 0.1)
    pictures = Pictures(threads=1)
    busy = ThreadPoolExecutor(1)
    monkeypatch.setattr(pictures, "_threads", busy)
    busy.submit(time.sleep, 1.0)
    with pytest.raises(BadRequest, match="could not be read within"):
        await pictures.plain(encoded("PNG"), Model(width_px=SIZE[0], height_px=SIZE[1]))
    pictures.close()
