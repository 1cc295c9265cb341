"""The resolver: every image comes out upright, RGB and small enough, and of rubbish only our own
errors come out.
"""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import (
    BLUE,
    GREEN,
    RED,
    colour_of,
    image_base64,
    image_bytes,
    png_bomb,
    write_image,
    write_pdf,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import (
    ImageDocument,
    ImageNode,
    MediaResource,
    Node,
    QueryBundle,
    TextNode,
)
from PIL import Image, ImageCms, ImageOps

from llama_index_rnx.candidates import (
    DEFAULT_MAX_PIXELS,
    Candidate,
    PageNode,
    base64_source,
    bytes_source,
    candidate_of,
    decoding,
    file_source,
    pil_source,
    pixels,
    query_of,
)
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.pdf import count_pages

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SAMPLES = {name: image_bytes(GREEN, (37, 23), name) for name in FORMATS}


def load(data: bytes, max_pixels: int | None = None) -> Image.Image:
    return bytes_source(data, label="sample").load(max_pixels)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def near(seen: Any, wanted: tuple[int, int, int], by: int = 30) -> bool:
    return all(abs(a - b) <= by for a, b in zip(seen, wanted, strict=True))


# --- rubbish

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes_give_only_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="sample"):
        load(data)


@fuzz
@example("data:")
@example("data:image/png;base64")
@example("data:image/png;base64,")
@example("\ud800")
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(max_size=50).map("data:".__add__),
        st.binary(max_size=100).map(lambda b: base64.b64encode(b).decode()),
    )
)
def test_random_base64_gives_only_our_errors(data: str) -> None:
    image = candidate_of(ImageNode(id_="odd", image=data, text="t")).image
    if image is not None:
        with pytest.raises(ImageError, match="odd"):
            image.load()


@fuzz
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_images_load_or_give_an_image_error(name: str, data: st.DataObject) -> None:
    raw = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow grumbles about metadata
        try:
            image = load(bytes(raw), max_pixels=10_000)
        except ImageError:
            return
    assert image.mode == "RGB"
    assert image.width * image.height <= 10_000


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_refused(name: str) -> None:
    noisy = encoded(Image.effect_noise((80, 80), 90).convert("RGB"), name)
    with pytest.raises(ImageError, match="cannot be read as an image"):
        load(noisy[: len(noisy) // 2])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "0 bytes"),
        (b"hello", "no known image format"),
        (png_bomb(), "900000000"),
        (png_bomb(12_000), "12000 x 12000"),
    ],
    ids=["empty", "text", "bomb", "large"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_reason_is_told(data: bytes, word: str) -> None:
    with pytest.raises(ImageError, match=word):
        load(data)


def test_a_missing_file_shows_when_it_is_loaded(tmp_path: Path) -> None:
    source = file_source(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"gone\.png.*not there"):
        source.load()
    with pytest.raises(ImageError):
        file_source(tmp_path).load()  # a folder


# --- every kind of image


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    image = load(SAMPLES[name])
    assert (image.mode, image.size) == ("RGB", (37, 23))
    assert colour_of(image) == "green"


def test_it_is_turned_upright_as_its_exif_says() -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (0, 0, 10, 20))  # the left edge is blue
    exif = Image.Exif()
    exif[0x0112] = (
        6  # turn by 90 degrees clockwise to see it upright: the left edge comes to the top
    )
    upright = load(encoded(image, "JPEG", quality=95, exif=exif))
    assert upright.size == (20, 40)
    assert near(upright.getpixel((10, 3)), BLUE, by=60)
    assert near(upright.getpixel((10, 30)), RED, by=60)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 10, 20))
    if mode == "P":
        data = encoded(image.quantize(8))
    elif mode == "LA":
        data = encoded(image.convert("LA"))
    else:
        data = encoded(image)
    seen = load(data)
    assert seen.mode == "RGB"
    assert near(seen.getpixel((15, 10)), (255, 255, 255), by=5)
    assert not near(seen.getpixel((5, 10)), (255, 255, 255), by=60)


def test_cmyk() -> None:
    seen = load(encoded(Image.new("RGB", (20, 20), RED).convert("CMYK"), "JPEG", quality=95))
    assert seen.mode == "RGB"
    assert colour_of(seen) == "red"


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette(mode: str) -> None:
    image = Image.new("RGB", (20, 20), "black")
    image.paste((255, 255, 255), (0, 0, 10, 20))
    seen = load(encoded(image.convert(mode)))
    assert seen.getpixel((5, 10)) == (255, 255, 255)
    assert seen.getpixel((15, 10)) == (0, 0, 0)


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    image = Image.new("I;16", (30, 10))
    for x in range(30):
        for y in range(10):
            image.putpixel((x, y), x * 2_000)
    seen = load(encoded(image))
    left, middle, right = (seen.getpixel((x, 5))[0] for x in (1, 15, 28))
    assert left < 30
    assert abs(middle - 30_000 / 257) < 12
    assert right > 190


WIDE, HIGH = 40, 10
RAMP = np.tile(np.arange(WIDE) * 255 // (WIDE - 1), (HIGH, 1))  # [HIGH, WIDE], 0 to 255
DEEP = {
    "png": lambda: deep_png(RAMP * 257),
    "png with alpha": lambda: deep_png(np.dstack([RAMP * 257, np.full_like(RAMP, 65_535)])),
    "png in colours": lambda: deep_png(np.dstack([RAMP * 257] * 3)),
    "png in colours with alpha": lambda: deep_png(
        np.dstack([*[RAMP * 257] * 3, np.full_like(RAMP, 65_535)])
    ),
    "tiff I;16": lambda: encoded(Image.fromarray((RAMP * 257).astype("<u2")), "TIFF"),
    "tiff I": lambda: encoded(Image.fromarray((RAMP * 257).astype("i4")), "TIFF"),
    "tiff I of 8 bits": lambda: encoded(Image.fromarray(RAMP.astype("i4")), "TIFF"),
    "tiff I below zero": lambda: encoded(
        Image.fromarray((RAMP * 1_000 - 90_000).astype("i4")), "TIFF"
    ),
    "tiff F to 1": lambda: encoded(Image.fromarray((RAMP / 255).astype("f4")), "TIFF"),
    "tiff F to 255": lambda: encoded(Image.fromarray(RAMP.astype("f4")), "TIFF"),
    "tiff F of metres": lambda: encoded(Image.fromarray((RAMP * 7.5 - 300).astype("f4")), "TIFF"),
    "pgm of 10 bits": lambda: (
        b"P5 %d %d 1023\n" % (WIDE, HIGH) + (RAMP * 1023 // 255).astype(">u2").tobytes()
    ),
    "jpeg 2000": lambda: encoded(Image.fromarray((RAMP * 257).astype("<u2")), "JPEG2000"),
}
IN_MEMORY = {
    "I;16B": lambda: Image.frombytes("I;16B", (WIDE, HIGH), (RAMP * 257).astype(">u2").tobytes()),
    "I;16L": lambda: Image.frombytes("I;16L", (WIDE, HIGH), (RAMP * 257).astype("<u2").tobytes()),
    "I": lambda: Image.fromarray(RAMP.astype("u1")).convert("I"),
    "F": lambda: Image.fromarray(RAMP.astype("u1")).convert("F"),
    "HSV": lambda: Image.fromarray(RAMP.astype("u1")).convert("RGB").convert("HSV"),
    "La": lambda: Image.fromarray(RAMP.astype("u1")).convert("LA").convert("La"),
    "RGBa": lambda: Image.fromarray(RAMP.astype("u1")).convert("RGBA").convert("RGBa"),
}


def deep_png(values: np.ndarray, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, [H, W] or [H, W, channels], which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    key = chunk(b"tRNS", transparent) if transparent else b""
    parts = chunk(b"IHDR", head) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def is_the_ramp(image: Image.Image) -> bool:
    return image.mode == "RGB" and bool(
        np.abs(np.asarray(image).astype(int) - RAMP[..., None]).max() <= 1
    )


@pytest.mark.parametrize("name", DEEP)
def test_images_of_more_than_8_bits_look_as_they_are(name: str) -> None:
    assert is_the_ramp(load(DEEP[name]()))
    # Thumbnails go the same way.
    shown = Image.open(io.BytesIO(bytes_source(DEEP[name](), label=name).jpeg()))
    assert [shown.convert("L").getpixel((x, 5)) > 127 for x in (4, 35)] == [False, True]


@pytest.mark.parametrize("name", IN_MEMORY)
def test_open_images_of_every_mode_look_as_they_are(name: str) -> None:
    image = IN_MEMORY[name]()
    assert image.mode == name
    assert is_the_ramp(pil_source(image).load())


@pytest.mark.parametrize("shade", [0, 255, 3_000])
def test_dark_16_bit_images_are_not_brightened(shade: int) -> None:
    assert load(deep_png(np.full((5, 5), shade))).getpixel((2, 2)) == (round(shade / 257),) * 3
    assert (
        load(b"P5 5 5 65535\n" + struct.pack(">H", shade) * 25).getpixel((2, 2))
        == (round(shade / 257),) * 3
    )


def test_shades_that_are_no_numbers() -> None:
    values = (RAMP / 255).astype("f4")
    values[0], values[1], values[2] = np.nan, np.inf, -np.inf
    seen = np.asarray(pil_source(Image.fromarray(values)).load())[..., 0]
    assert (seen[0] == 0).all()
    assert (seen[1] == 255).all()
    assert (seen[2] == 0).all()
    assert np.abs(seen[3:].astype(int) - RAMP[3:]).max() <= 1
    for value in (np.nan, np.inf, 7.0, 0.0):
        pil_source(Image.fromarray(np.full((4, 4), value, "f4"))).load()
    over = (RAMP / 250).astype("f4")  # a little above 1 is not nearly black of 255
    assert np.asarray(pil_source(Image.fromarray(over)).load()).max() == 255


def test_a_transparent_shade_of_16_bits_is_paper() -> None:
    ground, ink = 0x1234, 0x4000
    grey = np.full((6, 6), ground)
    grey[2] = ink
    seen = load(deep_png(grey, struct.pack(">H", ground)))
    assert (seen.getpixel((0, 0)), seen.getpixel((0, 2))) == ((255,) * 3, (round(ink / 257),) * 3)
    seen = load(deep_png(np.dstack([grey] * 3), struct.pack(">HHH", ground, ground, ground)))
    assert (seen.getpixel((0, 0)), seen.getpixel((0, 2))) == ((255,) * 3, (ink >> 8,) * 3)


def test_colours_by_lightness() -> None:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.new("RGB", (8, 8), RED), rgb, lab, outputMode="LAB")
    assert near(load(encoded(image, "TIFF")).getpixel((4, 4)), RED, by=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_way_to_hold_a_camera(name: str, orientation: int) -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, name, exif=exif)
    with Image.open(io.BytesIO(data)) as raw:
        wanted = ImageOps.exif_transpose(raw).convert("RGB")
    seen = load(data)
    assert seen.size == wanted.size
    for x, y in ((2, 2), (seen.width - 3, 2), (2, seen.height - 3)):
        assert near(seen.getpixel((x, y)), wanted.getpixel((x, y)), by=5)


# --- large images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_bands_and_averages_change_nothing_to_see(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = Image.fromarray(RAMP.astype("u1")).resize((403, 301))
    image = (
        Image.fromarray(np.asarray(grey).astype("u2") * 257)
        if mode == "I;16"
        else grey.convert(mode)
    )
    whole = np.asarray(pil_source(image).load(2_000)).astype(int)
    monkeypatch.setattr(pixels, "BAND_PIXELS", 3_000)
    assert (np.asarray(pil_source(image).load(2_000)).astype(int) == whole).all()
    monkeypatch.setattr(pixels, "LARGE_PIXELS", 10_000)
    averaged = np.asarray(pil_source(image).load(2_000)).astype(int)
    assert averaged.shape == whole.shape
    assert np.abs(averaged - whole).mean() < 4


@pytest.mark.parametrize("size", [(1, 5_000), (5_000, 1), (3, 4_000), (997, 13)])
def test_large_images_that_are_long_and_thin(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "BAND_PIXELS", 100)
    monkeypatch.setattr(pixels, "LARGE_PIXELS", 1_000)
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 1_000)
    for max_pixels in (1, 10, 500):
        seen = load(image_bytes(RED, size), max_pixels)
        assert seen.width * seen.height <= max_pixels
        assert colour_of(seen) == "red"


def test_so_many_pixels_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of 88 megapixels took 4.6 GB. Here the budget is of 1,000 pixels, and images have 400
    or 900.
    """
    most = at_work = 0
    lock, real = threading.Lock(), decoding._load

    def load_slowly(image: Image.Image) -> None:
        nonlocal most, at_work
        with lock:
            at_work += image.width * image.height
            most = max(most, at_work)
        time.sleep(0.01)
        real(image)
        with lock:
            at_work -= image.width * image.height

    monkeypatch.setattr(decoding, "_budget", decoding.PixelBudget(1_000))
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 500)
    monkeypatch.setattr(decoding, "_load", load_slowly)
    paths = [
        write_image(tmp_path / f"{i}.png", size=(20, 45 if i % 3 == 0 else 20)) for i in range(12)
    ]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda path: file_source(path).load(), paths))
    assert {image.size for image in seen} == {(20, 45), (20, 20)}
    assert 400 < most <= 1_000


def test_a_broken_image_gives_its_share_of_the_budget_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "_budget", decoding.PixelBudget(100))
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 50)
    torn = encoded(Image.effect_noise((80, 80), 90).convert("RGB"))
    for _ in range(3):
        with pytest.raises(ImageError, match="cannot be read"):
            load(torn[: len(torn) // 2])

    # More than the whole budget: it waits for all of it, not for ever.
    assert load(image_bytes(RED)).size == (24, 16)


MEASURE = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from llama_index_rnx.candidates import decoding, file_source
decoding._budget = decoding.PixelBudget(21_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda path: file_source(path).load(512 * 512), sys.argv[1:]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in kB on Linux")
def test_four_large_images_take_the_room_of_two(tmp_path: Path) -> None:
    """By 20 megapixels, 80 MB as RGBA: four at once with their copies took 1 GB."""
    path = tmp_path / "large.png"
    Image.new("RGBA", (5_000, 4_000), 0).save(path, compress_level=1)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *[str(path)] * 4],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 300


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_an_icon_may_not_hide_a_bomb(kind: str) -> None:
    bomb = (
        png_bomb(12_000)
        if kind == "png"
        else struct.pack("<IiiHH", 40, 12_000, 12_000, 1, 32) + bytes(100)
    )
    icon = (
        struct.pack("<HHH", 0, 1, 1)
        + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bomb), 22)
        + bomb
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="12000 x 12000"):
            load(icon)


@pytest.mark.parametrize("name", ["TIFF", "AVIF", "JPEG2000", "GIF", "WEBP", "BMP", "PPM", "TGA"])
def test_what_is_too_large_is_refused_before_it_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_SOURCE_PIXELS", 1_000)
    monkeypatch.setattr(decoding, "_load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="64 x 32 pixels"):
        load(image_bytes(RED, (64, 32), name))


def test_animated_webp_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (BLUE, RED, GREEN)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=50)
    assert colour_of(load(data)) == "blue"


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 5_000), (2_000, 2_000)])
@pytest.mark.parametrize("max_pixels", [1, 100, 50_000, None])
def test_max_pixels_is_obeyed(size: tuple[int, int], max_pixels: int | None) -> None:
    for name in ("PNG", "JPEG"):
        image = load(image_bytes(RED, size, name), max_pixels)
        assert image.width * image.height <= (max_pixels or DEFAULT_MAX_PIXELS)
        assert min(image.size) >= 1
        assert colour_of(image) == "red"


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 5_000))
def test_a_shrunk_image_keeps_its_shape(width: int, height: int, max_pixels: int) -> None:
    image = pil_source(Image.new("RGB", (width, height))).load(max_pixels)
    assert image.width * image.height <= max_pixels
    if width * height <= max_pixels:
        assert image.size == (width, height)
    elif min(image.size) >= 10:
        assert image.width / image.height == pytest.approx(width / height, rel=0.15)


def test_an_open_image_is_not_changed() -> None:
    image = Image.new("RGBA", (30, 20), (1, 2, 3, 4))
    pil_source(image).load(10)
    assert (image.mode, image.size, image.getpixel((0, 0))) == (
        "RGBA",
        (30, 20),
        (1, 2, 3, 4),
    )


# --- digests


def test_digests_are_equal_for_equal_content(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    assert Candidate(id="x", text="one").digest == Candidate(id="y", text="one").digest
    assert Candidate(id="x", text="one").digest != Candidate(id="x", text="two").digest
    assert (
        file_source(path).digest
        == file_source(str(path)).digest
        == file_source(f"file://{path}").digest
    )
    assert (
        base64_source(image_base64(), "a").digest
        == base64_source("data:image/png;base64," + image_base64(), "b").digest
    )
    assert (
        base64_source(image_base64(), "a").digest
        == base64_source(image_base64().encode(), "a").digest
    )
    assert (
        base64_source(image_base64(RED), "a").digest
        != base64_source(image_base64(BLUE), "a").digest
    )
    both = Candidate(id="x", text="one", image=file_source(path))
    assert both.digest not in (
        Candidate(id="x", text="one").digest,
        Candidate(id="x", image=file_source(path)).digest,
    )


def test_a_file_that_changed_has_another_digest(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    before = file_source(path).digest
    write_image(path, BLUE, (99, 9))
    assert file_source(path).digest != before
    path.unlink()
    assert file_source(path).digest != before


# --- nodes and queries


def test_base64_with_line_breaks_is_read() -> None:
    data = base64.encodebytes(image_bytes(GREEN, (200, 200), "JPEG")).decode()
    assert "\n" in data.strip()
    image = candidate_of(ImageNode(image=data)).image
    assert image is not None
    assert colour_of(image.load()) == "green"


def test_kinds() -> None:
    assert candidate_of(TextNode(text="word")).kind == "text"
    assert candidate_of(ImageNode(image=image_base64())).kind == "image"
    assert candidate_of(ImageNode(image=image_base64(), text="word")).kind == "both"
    assert candidate_of(ImageNode(text="word")).kind == "text"
    assert candidate_of(Node(image_resource=MediaResource(data=image_bytes()))).kind == "image"


def test_the_text_is_what_would_be_embedded() -> None:
    node = TextNode(
        text="body",
        metadata={"title": "Head", "secret": "x"},
        excluded_embed_metadata_keys=["secret"],
    )
    assert candidate_of(node).text == "title: Head\n\nbody"


def test_metadata_alone_is_no_text() -> None:
    assert candidate_of(ImageNode(image=image_base64(), metadata={"title": "Head"})).text == ""
    with pytest.raises(RNXError, match="neither text nor image"):
        candidate_of(TextNode(text="", metadata={"title": "Head"}))


@pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
def test_an_image_at_a_url_is_refused_unless_allowed(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:1/a.png"
    for node in (
        ImageNode(id_="far", image_url=url),
        Node(id_="far", image_resource=MediaResource(url=url)),
    ):
        with pytest.raises(RNXError, match=r"far.*no URL is fetched unless allowed"):
            candidate_of(node)
    if scheme != "ftp":
        allowed = candidate_of(ImageNode(image_url=url), allow_urls=True).image
        assert allowed is not None
        with pytest.raises(ImageError, match="did not arrive"):
            allowed.load()


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "with space é.png", BLUE)
    image = candidate_of(ImageNode(image_url=path.as_uri())).image
    assert image is not None
    assert colour_of(image.load()) == "blue"


def test_queries(tmp_path: Path) -> None:
    path = write_image(tmp_path / "q.png")
    assert query_of("  what?  ").text == "what?"
    both = query_of(QueryBundle("what?", image_path=str(path)))
    assert both.text == "what?"
    assert both.image is not None
    with pytest.raises(RNXError, match="no query"):
        query_of(None)
    for empty in ("", " ", QueryBundle("")):
        with pytest.raises(RNXError, match="query is empty"):
            query_of(empty)


# --- PDF


def test_a_page_is_drawn_and_read(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["alpha beta", "gamma"], colour=GREEN)
    node = PageNode(text="alpha beta", pdf_path=str(path), page=2)
    image = candidate_of(node).image
    assert image is not None
    assert colour_of(image.load()) == "green"
    assert image.load(5_000).width ** 2 <= 5_000
    kinds = [type(block).__name__ for block in node.get_content_blocks()]
    assert kinds == ["TextBlock", "ImageBlock"]
    with Image.open(node.resolve_image()) as seen:
        assert seen.format == "JPEG"


@pytest.mark.parametrize("page", [0, -1, 3, 99])
def test_a_page_that_is_not_there_is_an_image_error(tmp_path: Path, page: int) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one", "two"])
    image = candidate_of(PageNode(text="x", pdf_path=str(path), page=page)).image
    assert image is not None
    with pytest.raises(ImageError, match="cannot be drawn"):
        image.load()


@pytest.mark.parametrize("name", ["gone.pdf", "broken.pdf", "empty.pdf", "locked.pdf", "."])
def test_a_pdf_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (tmp_path / "empty.pdf").touch()
    write_pdf(tmp_path / "locked.pdf", ["secret"], encrypted=True)
    with pytest.raises(RNXError, match="cannot be opened as a PDF") as error:
        count_pages(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert ("password" in str(error.value)) == (name == "locked.pdf")


def test_image_document_and_node_bytes_are_decoded() -> None:
    for node in (
        ImageDocument(image=image_base64(BLUE)),
        Node(image_resource=MediaResource(data=image_bytes(BLUE))),
        Node(image_resource=MediaResource(data=image_base64(BLUE).encode())),
    ):
        image = candidate_of(node).image
        assert image is not None
        assert colour_of(image.load()) == "blue"


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev", "a\0b", "x" * 5_000, "\ud800.png", "file://[/a", "a\nb.png"]
)
def test_a_path_that_is_no_file(path: str) -> None:
    """A device would be read for ever; a zero byte is refused by the system itself with another
    error.
    """
    with pytest.raises(ImageError) as caught:
        file_source(path).load()
    assert "\n" not in str(caught.value)
