"""`image`: dimensions, and a thumbnail as WebP; for JPEG, PNG, WebP, GIF, TIFF and AVIF, known by their content.

An image is shown upright: its EXIF orientation is applied. Of an animation the first frame counts.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from app.domain.errors import StorageUnavailableError
from app.domain.limits import ImageLimits
from app.domain.processing_errors import ImageTooLargeError, ImageUnreadableError
from app.processing.processor import Facts, FinalError, ProcessingError, Result

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF")
HEAD_BYTES: Final = 16
_LEAST_BYTES: Final = 12
_HELD_BYTES: Final = 256 << 20
"""Most of a WebP or an AVIF file, which are decoded from memory and held there twice."""
_QUALITY: Final = 80
_ICC_BYTES: Final = 64 * 1024
_ORIENTATION: Final = 0x0112
_BEGINNINGS: Final = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_BRANDS: Final = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIF", b"msf1": "HEIF"}
"""An AVIF may call itself HEIF; so may what is none."""
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHRINKS_WELL: Final = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Modes that keep their look when pixels are averaged; the others are converted first."""


class ImageProcessor:
    """Decodes images, one at a time."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits: Final = limits
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each core has a process of its own

    def wants(self, facts: Facts) -> bool:
        """Look at what is long enough to be an image; names and declared types prove nothing."""
        return facts.size_bytes >= _LEAST_BYTES

    def process(self, facts: Facts, file: BinaryIO) -> Result:
        """Return nothing for what is no image. Raises FinalError: `image-too-large`, `image-unreadable`."""
        kind = _kind(file.read(HEAD_BYTES))
        if kind is None:
            return Result()
        if kind in {"WEBP", "AVIF", "HEIF"} and facts.size_bytes > _HELD_BYTES:
            raise FinalError(ImageTooLargeError.code, f"The {kind} file has more than {_HELD_BYTES >> 20} MiB.")
        file.seek(0)
        try:
            with _pillow_limited(self._limits.max_pixels):
                return self._decode(file)
        except (MemoryError, StorageUnavailableError, ProcessingError):
            raise
        except Image.DecompressionBombError:
            raise self._too_large("The image") from None
        except UnidentifiedImageError as error:
            if kind in {"TIFF", "HEIF"}:  # camera raw and HEIC begin alike, and are none of ours
                return Result(metadata={"unsupported": f"like {kind}, but of a kind that is not decoded here"})
            raise FinalError(ImageUnreadableError.code, f"The {kind} header cannot be read.") from error
        except Exception as error:  # there is no end to what Pillow raises for damaged files
            detail = f"The image cannot be decoded, it is damaged or cut short: {_sentence(error)}"
            raise FinalError(ImageUnreadableError.code, detail) from error

    def _decode(self, file: BinaryIO) -> Result:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > self._limits.max_pixels:
                raise self._too_large(f"{width} x {height}")
            metadata = {"format": image.format, "mode": image.mode, "frames": getattr(image, "n_frames", 1)}
            is_rgb = image.mode in {"RGB", "RGBA", "P"}
            small = image if _shrinks_well(image) else _flattened(image)
            box = (self._limits.thumbnail_pixels,) * 2
            small.thumbnail(box)  # of a JPEG not loaded yet it decodes an eighth, a quarter or a half
            small.load()
            orientation = _orientation(image)
            if orientation in _SIDEWAYS:
                width, height = height, width
            small = _upright(small, orientation)
            if small.mode not in {"RGB", "RGBA"}:
                small = small.convert("RGBA" if small.has_transparency_data else "RGB")
            profile = image.info.get("icc_profile") or b""
            written = io.BytesIO()
            small.save(
                written,
                "WEBP",
                quality=_QUALITY,
                icc_profile=profile if is_rgb and len(profile) <= _ICC_BYTES else None,
            )
            return Result(width=width, height=height, metadata=metadata, thumbnail=written.getvalue())

    def _too_large(self, what: str) -> FinalError:
        return FinalError(ImageTooLargeError.code, f"{what} has more than {self._limits.max_pixels} pixels.")


@contextmanager
def _pillow_limited(max_pixels: int) -> Iterator[None]:
    """Have Pillow refuse more pixels, also where it finds out in the middle, and warn of nothing."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # it refuses what has more than twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _kind(head: bytes) -> str | None:
    """Return the format that the first 16 bytes of a file speak for, None for what is not on the list."""
    for kind, beginnings in _BEGINNINGS.items():
        if head.startswith(beginnings):
            return kind
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None


def _orientation(image: Image.Image) -> int:
    """Return how a loaded image is to be turned, 1 to 8; Pillow has turned a TIFF by then."""
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError):
        return 1  # EXIF that cannot be read turns nothing
    return orientation if isinstance(orientation, int) and 1 <= orientation <= len(_TURNS) + 1 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _shrinks_well(image: Image.Image) -> bool:
    return image.mode in _SHRINKS_WELL and "transparency" not in image.info


def _flattened(image: Image.Image) -> Image.Image:
    """Return an image of any mode in one that shrinks well: palettes resolved, 16 and 32 bits brought down to 8."""
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in {"I", "F"}:
        low, high = image.getextrema()
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        scale = 255 / (high - low) if high > low else 0.0
        offset = -low * scale
        return image.point(lambda value: value * scale + offset).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _sentence(error: Exception) -> str:
    return f"{str(error) or type(error).__name__}.".replace("..", ".")
