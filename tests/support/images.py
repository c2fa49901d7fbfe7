"""Images made with Pillow that show which way up they are: a colour in each corner."""

import io
import struct
import zlib
from typing import Any, Final

from PIL import Image

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 200, 20), (20, 20, 220), (230, 220, 20)
CORNERS: Final = (RED, GREEN, BLUE, YELLOW)
"""Left and right at the top, left and right at the bottom."""
ORIENTATIONS: Final = range(1, 9)
_TO_STORED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a picture that stands upright is turned before it is stored under that orientation."""


def picture(width: int, height: int) -> Image.Image:
    """Four colours, one in each quarter."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate(CORNERS):
        left, top = number % 2 * (width // 2), number // 2 * (height // 2)
        image.paste(colour, (left, top, left + width - width // 2, top + height - height // 2))
    return image


def stored(image: Image.Image, form: str, orientation: int = 1, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    """A file that shows `image` upright, if its EXIF orientation is heeded. GIF has none."""
    turn = _TO_STORED.get(orientation)
    if form != "GIF":
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
        image = image.transpose(turn) if turn is not None else image
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


def corners(webp: bytes) -> list[tuple[int, ...]]:
    """The colour near each corner, in the order of CORNERS."""
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        shown = image.convert("RGB")
    across, down = shown.width // 8, shown.height // 8
    places = [(across, down), (shown.width - 1 - across, down)]
    places += [(x, shown.height - 1 - down) for x, _ in places]
    return [tuple(shown.getpixel(place)) for place in places]  # type: ignore[arg-type]


def is_upright(webp: bytes, *, tolerance: int = 60) -> bool:
    """Whether the thumbnail of a `picture` has its colours where they belong."""
    return all(
        abs(seen - wanted) <= tolerance
        for colour, shown in zip(CORNERS, corners(webp), strict=True)
        for wanted, seen in zip(colour, shown, strict=True)
    )


def fifty_gigapixels() -> bytes:
    """A small PNG whose header promises 250,000 x 200,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 250_000, 200_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
