"""`image` in this process: every format, orientation and kind of pixels, and what is no image."""

import io
import warnings
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from app.domain.limits import ImageLimits
from app.processing.image import FORMATS, ImageProcessor
from app.processing.processor import Facts, FinalError, Result
from tests.support.files import png
from tests.support.images import ORIENTATIONS, RED, corners, fifty_gigapixels, is_upright, picture, stored

LIMITS = ImageLimits(max_pixels=2_000_000, thumbnail_pixels=128)
SAVED = {"TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}), "WEBP": ({}, {"lossless": True})}


def look(data: bytes, limits: ImageLimits = LIMITS) -> Result:
    facts = Facts(UUID(int=1), "a.txt", "text/plain", len(data), "", 1)
    processor = ImageProcessor(limits)
    return processor.process(facts, io.BytesIO(data)) if processor.wants(facts) else Result()


def ending(data: bytes) -> str | None:
    """The code of the error, if there is one; any but ours is a failure."""
    try:
        look(data)
    except FinalError as error:
        return error.code
    return None


def shown(result: Result) -> Image.Image:
    assert result.thumbnail
    return Image.open(io.BytesIO(result.thumbnail), formats=["WEBP"])


def saved(image: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_thumbnail_stands_upright(form: str, orientation: int) -> None:
    for options in SAVED.get(form, ({},)):
        result = look(stored(picture(300, 200), form, orientation, **options))
        assert (result.width, result.height) == (300, 200), options
        assert result.thumbnail
        assert shown(result).size == (128, 85), options
        assert is_upright(result.thumbnail), options
        assert result.metadata["format"] == form


@pytest.mark.parametrize("size", [(1, 1), (1, 1500), (1500, 1), (128, 128), (127, 3)])
def test_any_shape_fits_and_nothing_is_enlarged(size: tuple[int, int]) -> None:
    result = look(saved(Image.new("RGB", size, RED), "PNG"))
    assert (result.width, result.height) == size
    assert max(shown(result).size) <= 128
    assert min(shown(result).size) >= 1
    if max(size) <= 128:
        assert shown(result).size == size


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
        ("I", "TIFF"),
        ("F", "TIFF"),
        ("I;16", "TIFF"),
        ("I;16", "PNG"),
        ("RGBA", "WEBP"),
        ("RGBA", "AVIF"),
    ],
)
def test_every_kind_of_pixels_becomes_light_above_and_dark_below(mode: str, form: str) -> None:
    grey = Image.new("L", (200, 200), 250)
    grey.paste(5, (0, 100, 200, 200))
    if mode in {"I", "F"}:
        image = grey.convert("I").point(lambda value: value * 4000 - 70_000).convert(mode)
    elif mode == "I;16":
        image = grey.convert("I").point(lambda value: value * 256).convert("I;16")
    elif mode == "LAB":
        image = Image.merge("LAB", (grey, Image.new("L", grey.size, 128), Image.new("L", grey.size, 128)))
    else:
        image = grey.convert("RGB").convert(mode)
    above, _, below, _ = corners(look(saved(image, form)).thumbnail or b"")
    assert min(above) > 200
    assert max(below) < 60


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_transparency_is_kept(form: str) -> None:
    image = Image.new("RGBA", (200, 200), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (100, 0, 200, 200))
    thumbnail = shown(look(saved(image, form)))
    assert thumbnail.mode == "RGBA"
    assert thumbnail.getpixel((20, 64))[3] < 20  # type: ignore[index]
    assert thumbnail.getpixel((110, 64))[3] > 235  # type: ignore[index]


@pytest.mark.parametrize(
    ("mode", "form", "clear"), [("P", "GIF", 0), ("P", "PNG", 0), ("L", "PNG", 7), ("RGB", "PNG", RED)]
)
def test_a_colour_that_stands_for_nothing_is_transparent(
    mode: str, form: str, clear: int | tuple[int, int, int]
) -> None:
    image = Image.new(mode, (200, 200), clear)
    image.paste(200 if isinstance(clear, int) else (0, 0, 255), (100, 0, 200, 200))
    thumbnail = shown(look(saved(image, form, transparency=clear)))
    assert thumbnail.mode == "RGBA"
    assert thumbnail.getpixel((20, 64))[3] < 20  # type: ignore[index]
    assert thumbnail.getpixel((110, 64))[3] > 235  # type: ignore[index]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_counts(form: str) -> None:
    first, others = picture(200, 150), [Image.new("RGB", (200, 150), (n, n, n)) for n in (0, 99)]
    result = look(saved(first, form, save_all=True, append_images=others))
    assert result.metadata["frames"] == 3
    assert result.thumbnail
    assert is_upright(result.thumbnail)
    assert getattr(shown(result), "n_frames", 1) == 1


def test_a_colour_profile_goes_along_and_nothing_else_does() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    exif[0x0112] = 6
    thumbnail = shown(look(saved(picture(300, 200), "JPEG", icc_profile=b"profile" * 50, exif=exif, comment=b"secret")))
    assert thumbnail.info["icc_profile"] == b"profile" * 50
    assert "exif" not in thumbnail.info
    cmyk = shown(look(saved(picture(300, 200).convert("CMYK"), "JPEG", icc_profile=b"profile" * 50)))
    assert "icc_profile" not in cmyk.info, "it was about other colours"


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("JPEG", "PNG", "WEBP"):
        result = look(saved(picture(300, 200), form, exif=exif))
        assert (result.width, result.height) == (300, 200)
        assert is_upright(result.thumbnail or b"")


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    result = look(saved(picture(300, 200), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40))
    assert is_upright(result.thumbnail or b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"plain words, more than twelve of them",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4 and more of that kind",
        b"BM" + bytes(100),
        b"RIFF\x10\0\0\0WAVEfmt " + bytes(30),
        b"\0\0\0\x18ftypheic" + bytes(30),
        b"\0\0\0\x18ftypmp42" + bytes(30),
    ],
)
def test_what_is_no_image_of_ours_is_passed_over(data: bytes) -> None:
    assert look(data) == Result()


@pytest.mark.parametrize("data", [b"II*\0" + bytes(200), b"\0\0\0\x18ftypmif1" + bytes(200)])
def test_relatives_of_tiff_and_avif_are_passed_over_and_said_so(data: bytes) -> None:
    result = look(data)
    assert (result.width, result.thumbnail) == (None, None)
    assert "unsupported" in result.metadata


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "TIFF"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_an_image_cut_short_is_unreadable(form: str, share: float) -> None:
    noisy = Image.effect_noise((400, 300), 80).convert("RGB")
    data = saved(noisy, form)
    with pytest.raises(FinalError) as refused:
        look(data[: max(16, int(len(data) * share))])
    assert refused.value.code == "image-unreadable"
    assert refused.value.detail.endswith(".")


@pytest.mark.parametrize("form", FORMATS)
def test_damage_in_the_middle_ends_in_a_result_or_in_an_error_of_ours(form: str) -> None:
    data = bytearray(saved(Image.effect_noise((100, 80), 80).convert("RGB"), form))
    for place in range(12, len(data), max(1, len(data) // 150)):
        damaged = bytes(data[:place]) + bytes([data[place] ^ 0xFF]) + bytes(data[place + 1 :])
        assert ending(damaged) in {None, "image-unreadable", "image-too-large"}


def test_pixels_are_counted_before_anything_is_decoded() -> None:
    for data in (fifty_gigapixels(), saved(Image.new("1", (2001, 1000)), "PNG")):
        with pytest.raises(FinalError) as refused:
            look(data)
        assert refused.value.code == "image-too-large"
    assert look(saved(Image.new("1", (2000, 1000)), "PNG")).width == 2000
    for form in ("JPEG", "WEBP", "GIF", "TIFF", "AVIF"):
        with pytest.raises(FinalError, match="pixels"):
            look(saved(picture(300, 200), form), ImageLimits(max_pixels=59_999, thumbnail_pixels=128))


def test_a_file_that_would_have_to_be_held_in_memory_may_not_be_huge() -> None:
    facts = Facts(UUID(int=1), "a.webp", None, 10 << 30, "", 1)
    with pytest.raises(FinalError, match="256 MiB"):
        ImageProcessor(LIMITS).process(facts, io.BytesIO(saved(picture(30, 20), "WEBP")))


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        look(saved(Image.new("1", (1999, 1000)), "PNG"))
        look(png(31, 17))
    assert caught == []
