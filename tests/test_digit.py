"""`read_digit` and --predict, on images made from MNIST's digits and from strokes."""

import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

import cnn_mnist


@pytest.fixture
def read(tmp_path):
    """A function that saves a Pillow image, by default as PNG, and reads it back."""

    def read(image, name="digit.png", **options):
        image.save(tmp_path / name, **options)
        return cnn_mnist.read_digit(tmp_path / name)

    return read


def enlarged(digit, side=280):
    """One of MNIST's arrays as a larger image, light on dark."""
    return Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)


def photograph(digit, paper=230, ink=60, side=280, size=(500, 400), at=(150, 60)):
    """One of MNIST's arrays in dark ink on a page of light paper."""
    mask = np.zeros(size[::-1])
    mask[at[1] : at[1] + side, at[0] : at[0] + side] = enlarged(digit, side)
    return Image.fromarray(np.uint8(paper + (ink - paper) * mask / 255))


def stroke(width, *points, size=(300, 300), paper=255, ink=0):
    """A page with one line through the points."""
    page = Image.new("L", size, paper)
    ImageDraw.Draw(page).line(points, ink, width, joint="curve")
    return page


def centre_of_mass(digit):
    rows, columns = np.indices((28, 28))
    weights = digit[..., 0] / digit.sum()
    return (rows * weights).sum(), (columns * weights).sum()


def extent(digit):
    """Height and width of what is at least half black, in pixels."""
    rows, columns = np.nonzero(digit[..., 0] >= 0.5)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


def difference(a, b):
    """The mean difference of two digits, of a mean value of about 0.13."""
    return np.abs(a - b).mean()


# --- What is promised of the result -------------------------------------------


@pytest.mark.parametrize("i", range(8))
def test_the_form_is_that_of_mnist(read, mnist, i):
    digit = read(photograph(mnist["x_test"][i]))
    assert digit.dtype == np.float32
    assert digit.shape == (28, 28, 1)
    assert digit.min() == 0
    assert 0.97 < digit.max() <= 1
    assert centre_of_mass(digit) == pytest.approx((14, 14), abs=0.15)
    assert 18 <= max(extent(digit)) <= 20


def test_on_average_the_centre_of_mass_is_on_pixel_14(read, mnist):
    """Of one digit it is rounded to a tenth of a pixel."""
    centres = [centre_of_mass(read(photograph(x))) for x in mnist["x_test"][:12]]
    assert np.mean(centres, axis=0) == pytest.approx((14, 14), abs=0.05)


def test_it_looks_like_the_array_it_came_from(read, mnist):
    """MNIST's own are of this form already, but for thin strokes and rounding."""
    found = [
        difference(read(enlarged(x)), x[..., np.newaxis] / 255)
        for x in mnist["x_test"][:20]
    ]
    assert np.median(found) < 0.04
    assert np.max(found) < 0.09


@pytest.mark.parametrize("thickness", [12, 40])
def test_the_proportions_stay(read, thickness):
    """A plus sign fills the box of 20 x 20; half as wide, its width is 10."""
    both = stroke(thickness, 150, 50, 150, 250)
    ImageDraw.Draw(both).line((50, 150, 250, 150), 0, thickness)
    for width, pixels in ((300, 20), (150, 10)):
        height, across = extent(read(both.resize((width, 300))))
        assert height == pytest.approx(20, abs=1)
        assert across == pytest.approx(pixels, abs=1)


@pytest.mark.parametrize(("contrast", "part"), [(0.35, False), (0.6, True)])
def test_what_is_less_than_half_as_dark_is_no_part_of_the_digit(read, contrast, part):
    page = stroke(20, 100, 50, 100, 250)
    ImageDraw.Draw(page).line((111, 150, 210, 150), round(255 * (1 - contrast)), 20)
    _, width = extent(read(page))
    assert width == pytest.approx(12 if part else 3, abs=1)


@pytest.mark.parametrize("width", [2, 4, 8, 16, 24])
def test_thin_strokes_become_as_wide_as_those_of_mnist(read, width):
    """Here 10 of a page's pixels, 200 high, become one of 20."""
    digit = read(stroke(width, 150, 50, 150, 249))
    assert digit.sum() / 20 == pytest.approx(2.5, abs=0.25)
    assert digit[14, :, 0].max() > 0.8


@pytest.mark.parametrize("width", [30, 40])
def test_thick_strokes_stay_thick(read, width):
    digit = read(stroke(width, 150, 50, 150, 249))
    assert digit.sum() / 20 == pytest.approx(width / 10, abs=0.3)


def test_the_network_takes_it_as_it_is(read, mnist):
    digit = read(photograph(mnist["x_test"][0]))
    assert cnn_mnist.build_model().predict(digit[np.newaxis], verbose=0).shape == (
        1,
        10,
    )


# --- The same digit in many guises --------------------------------------------


@pytest.fixture(scope="module")
def seven(mnist):
    return mnist["x_test"][0]


@pytest.mark.parametrize(
    "options",
    [
        {"at": (0, 0)},
        {"at": (220, 120)},
        {"side": 60, "at": (400, 300)},
        {"side": 84, "size": (90, 110), "at": (3, 12)},
        {"side": 1960, "size": (3000, 4000), "at": (600, 900)},
        {"paper": 255, "ink": 0},
        {"paper": 120, "ink": 90},
        {"paper": 200, "ink": 180},
        {"paper": 60, "ink": 230},
        {"paper": 0, "ink": 255},
    ],
    ids=str,
)
def test_place_size_paper_and_ink_do_not_matter(read, seven, options):
    tolerance = 0.05 if options.get("side") == 60 else 0.012
    expected = read(photograph(seven))
    assert difference(read(photograph(seven, **options)), expected) < tolerance


def test_faint_ink_is_read_and_fainter_ink_is_none(read, seven):
    expected = read(photograph(seven))
    faint = read(photograph(seven, paper=200, ink=186))
    assert difference(faint, expected) < 0.04
    with pytest.raises(ValueError, match="no ink"):
        read(photograph(seven, paper=200, ink=192))


def lit(image, light):
    """The image with each column's grey values multiplied by `light` (0 to 1)."""
    values = np.asarray(image, "float32") * light(np.linspace(0, 1, image.width))
    return Image.fromarray(np.uint8(values))


def ruled(image, squared):
    """Lines of 30 % on the paper, under the ink, as on the pages of a school book."""
    lines = Image.new("L", image.size, 255)
    for place in range(20, max(image.size), 60):
        ImageDraw.Draw(lines).line((0, place, image.width, place), 179, 3)
        if squared:
            ImageDraw.Draw(lines).line((place, 0, place, image.height), 179, 3)
    return ImageChops.multiply(image, lines)


def on_table(image, grey):
    """The page on a table with some texture, which shows on all sides."""
    table = np.random.default_rng(0).normal(grey, 4, (520, 650)).clip(0, 255)
    table[60:460, 75:575] = image
    return Image.fromarray(np.uint8(table))


def on_wood(page):
    """The page, turned by a degree, on a dark table with a grain."""
    grain = np.random.default_rng(0).normal(80, 14, (520, 30)).clip(0, 255)
    table = Image.fromarray(np.uint8(grain)).resize((650, 520))
    mask = Image.new("L", page.size, 255).rotate(1, expand=True)
    table.paste(page.rotate(1, expand=True), (60, 40), mask)
    return table


CONDITIONS = {
    "dark on light": lambda page: page,
    "light on dark": ImageOps.invert,
    "fading light": lambda page: lit(page, lambda x: 1 - 0.6 * x),
    "the other way": lambda page: lit(page, lambda x: 0.4 + 0.6 * x),
    "soft shadow": lambda page: lit(
        page, lambda x: 1 - 0.45 / (1 + np.exp(-(x - 0.55) / 0.05))
    ),
    "hard shadow": lambda page: lit(page, lambda x: np.where(x > 0.55, 0.55, 1)),
    "ruled paper": lambda page: ruled(page, squared=False),
    "squared paper": lambda page: ruled(page, squared=True),
    "dark table": lambda page: on_table(page, 90),
    "light table": lambda page: on_table(page, 250),
    "wooden table": on_wood,
    "blurred": lambda page: page.filter(ImageFilter.GaussianBlur(3)),
    "noise": lambda page: Image.fromarray(
        np.uint8(
            (page + np.random.default_rng(0).normal(0, 12, (400, 500))).clip(0, 255)
        )
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_condition_of_the_photograph_does_not_matter(read, mnist, condition):
    """Ten digits look as they do without it. Of one that is moved by a pixel, 0.05 differ."""
    pages = [photograph(digit) for digit in mnist["x_test"][:10]]
    found = [difference(read(CONDITIONS[condition](p)), read(p)) for p in pages]
    assert np.max(found) < 0.02


def test_a_digit_may_be_near_a_wooden_table(read, mnist):
    for digit in mnist["x_test"][:10]:
        page = photograph(digit, side=200, at=(290, 190))
        assert difference(read(on_wood(page)), read(page)) < 0.02


CHANGES = {
    "thin": lambda image: image.filter(ImageFilter.GaussianBlur(4)).point(
        lambda v: 255 * (v > 190)
    ),
    "thick": lambda image: image.filter(ImageFilter.MaxFilter(9)),
    "28 x 28": lambda image: image.resize((28, 28)),
    "18 x 18": lambda image: image.resize((18, 18)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_pens_and_sizes(read, mnist, change):
    images = [enlarged(digit) for digit in mnist["x_test"][:10]]
    found = [difference(read(CHANGES[change](i)), read(i)) for i in images]
    assert np.median(found) < 0.04


# --- Any frame ------------------------------------------------------------------


@pytest.mark.parametrize("side", [40, 60, 80, 120])
def test_a_digit_may_be_small_on_its_page(read, mnist, side):
    """The page is 1,333 pixels high, so 40 of them are 6 on a page of 200."""
    found = []
    for digit in mnist["x_test"][:9]:
        small = photograph(digit, side=side, size=(1000, 1333), at=(600, 300))
        found.append(difference(read(small), read(photograph(digit))))
    assert np.median(found) < 0.03
    assert np.sum(np.array(found) > 0.04) <= 1


def test_a_small_digit_gets_half_its_size_around():
    """So it takes half of the page, less what the coarse first look adds to its box."""
    image = stroke(20, (225, 300), (375, 300), size=(600, 600))
    page = np.asarray(cnn_mnist.zoom_in(image.convert("L")))
    columns = np.flatnonzero((page < 128).any(axis=0))
    assert max(page.shape) == cnn_mnist.PAGE_SIDE
    assert 0.4 < len(columns) / cnn_mnist.PAGE_SIDE < 0.5


def cut_out(digit, margin):
    image = Image.fromarray(digit)
    left, top, right, bottom = image.getbbox()
    box = (left - margin, top - margin, right + margin, bottom + margin)
    image = image.crop(box)
    return image.resize((10 * image.width, 10 * image.height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("dark", [True, False], ids=["dark on light", "light on dark"])
def test_a_digit_may_be_cut_out_to_its_edges(read, mnist, margin, dark):
    for digit in mnist["x_test"][:30]:
        image = cut_out(digit, margin)
        image = ImageOps.invert(image) if dark else image
        assert difference(read(image), read(enlarged(digit))) < 0.04


def framed(page, ink=40):
    page = page.copy()
    box = (20, 15, page.width - 20, page.height - 15)
    ImageDraw.Draw(page).rectangle(box, outline=ink, width=6)
    return page


def in_a_ring(page):
    page = page.copy()
    ImageDraw.Draw(page).ellipse((55, 5, 445, 395), outline=60, width=8)
    return page


def with_specks(page, *places):
    page = page.copy()
    for x, y in places:
        ImageDraw.Draw(page).ellipse((x, y, x + 10, y + 10), fill=50)
    return page


def beside_a_table(page):
    page = page.copy()
    page.paste(70, (0, 0, 40, page.height))
    return page


OTHER_INK = {
    "a frame": framed,
    "a faint frame": lambda page: framed(page, ink=120),
    "a ring": in_a_ring,
    "a speck": lambda page: with_specks(page, (20, 20)),
    "three specks": lambda page: with_specks(page, (20, 20), (470, 200), (30, 380)),
    "a table on one side": beside_a_table,
}


@pytest.mark.parametrize("other", OTHER_INK)
def test_what_is_not_the_digit_is_left_out(read, mnist, other):
    for digit in mnist["x_test"][:5]:
        page = photograph(digit, side=200, at=(150, 100))
        assert difference(read(OTHER_INK[other](page)), read(page)) < 0.02


@pytest.mark.parametrize("other", ["a frame", "a speck"])
def test_what_is_not_the_digit_may_be_close_to_it(read, mnist, other):
    for digit in mnist["x_test"][:5]:
        page = photograph(digit, size=(380, 380), at=(50, 50))
        assert difference(read(OTHER_INK[other](page)), read(page)) < 0.02


@pytest.mark.parametrize("i", [6543, 9624, 9697])
def test_a_digit_around_its_loose_stroke_is_no_frame(read, mnist, i):
    digit = mnist["x_test"][i]
    assert difference(read(enlarged(digit)), digit[..., np.newaxis] / 255) < 0.08


def test_a_dot_in_a_zero_is_no_digit_in_a_frame(read):
    zero = Image.new("L", (300, 400), 255)
    ImageDraw.Draw(zero).ellipse((60, 60, 240, 340), outline=0, width=20)
    dotted = zero.copy()
    ImageDraw.Draw(dotted).ellipse((140, 190, 160, 210), fill=0)
    assert difference(read(dotted), read(zero)) < 0.03


def test_a_broken_stroke_belongs_to_the_digit(read, mnist):
    five = mnist["x_test"][mnist["y_test"] == 5][1]
    whole = read(photograph(five))
    for row in np.flatnonzero(five.any(axis=1))[4:-4:4]:
        broken = five.copy()
        broken[row] = 0
        assert difference(read(photograph(broken)), whole) < 0.04


def test_a_stroke_of_its_own_belongs_to_the_digit(read):
    """As the flag of a 5, which does not touch it."""
    whole = stroke(16, 110, 80, 110, 140, 180, 160, 170, 230, 100, 230)
    ImageDraw.Draw(whole).line((128, 72, 190, 72), 0, 16)
    without = stroke(16, 110, 80, 110, 140, 180, 160, 170, 230, 100, 230)
    ImageDraw.Draw(without).line((135, 56, 190, 56), 0, 16)
    assert extent(read(without))[0] == pytest.approx(20, abs=1)
    width = read(without)[0:8, :, 0].sum()
    assert width > 5


# --- Colours --------------------------------------------------------------------


def coloured(page, ink, paper):
    """A grey page in two colours: ink where it is black, paper where it is white."""
    return ImageOps.colorize(page, black=ink, white=paper)


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((255, 60, 60), (60, 144, 60)),  # of the same grey
        ((120, 170, 255), (255, 150, 60)),
        ("yellow", "white"),
        ("cyan", "white"),
        ("pink", "white"),
        ("white", "navy"),
    ],
    ids=str,
)
def test_ink_of_another_colour(read, page, ink, paper):
    assert difference(read(coloured(page, ink, paper)), read(page)) < 0.03


def test_a_coloured_table_does_not_choose_the_channel(read, page):
    """Its blue differs from that of the page more than the ink does."""
    table = Image.new("RGB", (700, 600), (200, 150, 40))
    table.paste(page.convert("RGB"), (100, 100))
    assert difference(read(table), read(page)) < 0.03


# --- Several digits ---------------------------------------------------------------


def side_by_side(*digits):
    page = Image.new("L", (300 * len(digits), 320), 230)
    for i, digit in enumerate(digits):
        page.paste(
            photograph(digit, side=250, size=(250, 250), at=(0, 0)), (300 * i, 30)
        )
    return page


def test_several_digits_on_a_page_are_said(run, small_file, saved, mnist, tmp_path):
    path = tmp_path / "72.png"
    side_by_side(*mnist["x_test"][:2]).save(path)
    flags = ("--load-model", saved, "--epochs", 0, "--predict", path)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    assert done.err.count("\n") == 1
    assert str(path) in done.err
    assert "2 digits" in done.err


def test_one_digit_is_no_reason_for_a_message(run, small_file, saved, mnist, tmp_path):
    paths = []
    for i, digit in enumerate(mnist["x_test"][:20]):
        paths.append(tmp_path / f"{i}.png")
        with_specks(photograph(digit), (20, 20)).save(paths[-1])
    flags = ("--load-model", saved, "--epochs", 0, "--predict", *paths)
    assert run("--data", small_file, *flags).err == ""


# --- Modes and formats --------------------------------------------------------


def transparent(page, ink):
    """The ink of a grey page in one colour on nothing at all."""
    image = Image.new("RGBA", page.size, ink)
    image.putalpha(Image.eval(page, lambda v: 255 - v))
    return image


def sixteen_bits(page, factor, dtype=np.uint16):
    return Image.fromarray((np.asarray(page).astype(dtype) * factor).astype(dtype))


def with_some(value, image):
    values = np.array(image)
    values[100:300, 20:60] = value
    return Image.fromarray(values)


FORMS = {
    "1.png": lambda page: page.convert("1", dither=Image.Dither.NONE),
    "L.png": lambda page: page,
    "LA.png": lambda page: page.convert("LA"),
    "P.png": lambda page: page.convert("P"),
    "P.gif": lambda page: page.convert("P"),
    "RGB.png": lambda page: page.convert("RGB"),
    "RGB.jpg": lambda page: page.convert("RGB"),
    "RGB.webp": lambda page: page.convert("RGB"),
    "RGB.bmp": lambda page: page.convert("RGB"),
    "RGBA.png": lambda page: page.convert("RGBA"),
    "LAB.tif": lambda page: page.convert("RGB").convert("LAB"),
    "YCbCr.jpg": lambda page: page.convert("YCbCr"),
    "CMYK.jpg": lambda page: page.convert("CMYK"),
    "CMYK.tif": lambda page: page.convert("CMYK"),
    "16 bits.png": lambda page: sixteen_bits(page, 257),
    "12 bits.tif": lambda page: sixteen_bits(page, 16),
    "32 bits.tif": lambda page: sixteen_bits(page, 70000, np.int32),
    "0 to 1.tif": lambda page: sixteen_bits(page, 1 / 255, np.float32),
    "0 to 1, some unknown.tif": lambda page: with_some(
        np.nan, sixteen_bits(page, 1 / 255, "f4")
    ),
    "huge numbers, some unknown.tif": lambda page: with_some(
        np.nan, sixteen_bits(page, 1e36, "f4")
    ),
    "0 to 1, some infinite.tif": lambda page: with_some(
        np.inf, sixteen_bits(page, 1 / 255, "f4")
    ),
    "black on nothing.png": lambda page: transparent(page, "black"),
    "white on nothing.png": lambda page: transparent(page, "white"),
    "cream on nothing.png": lambda page: transparent(page, (250, 250, 210)),
    "blue on nothing.webp": lambda page: transparent(page, "blue"),
    "palette on nothing.png": lambda page: transparent(page, "black").quantize(32),
}


@pytest.fixture(scope="module")
def page(seven):
    return photograph(seven, paper=255, ink=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FORMS)
def test_modes_and_formats(read, page, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    found = read(FORMS[name](page), name, **options)
    assert difference(found, read(page)) < (0.03 if name == "1.png" else 0.01)


@pytest.mark.parametrize("name", ["seven.heic", "SEVEN.HEIF"])
def test_the_format_of_iphones_gets_advice(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match="pip install pillow-heif") as found:
        cnn_mnist.read_digit(tmp_path / name)
    assert "\n" not in str(found.value)


def test_a_missing_file_gets_no_advice_about_its_format(tmp_path):
    with pytest.raises(ValueError, match="No such file") as found:
        cnn_mnist.read_digit(tmp_path / "seven.heic")
    assert "pillow-heif" not in str(found.value)


def test_pillow_heif_is_used_where_it_is_installed(page, tmp_path, monkeypatch):
    calls = []
    module = types.SimpleNamespace(register_heif_opener=lambda: calls.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    page.save(tmp_path / "seven.png")
    cnn_mnist.read_digit(tmp_path / "seven.png")
    assert calls


def test_faint_ink_on_a_page_with_transparent_corners(read, page):
    """The ink is on the page, not in what is transparent."""
    faint = page.point(lambda v: 225 + v // 10).convert("RGBA")
    corners = Image.new("L", page.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((5, 5, 495, 395), 40, 255)
    faint.putalpha(corners)
    assert difference(read(faint), read(page)) < 0.02


def test_a_transparent_colour(read, page):
    found = read(page.convert("P"), transparency=255)
    assert difference(found, read(page)) < 0.01


TURNED = {  # by the orientation of EXIF: what turns the image back
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_read_as_it_is_shown(read, page, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(page.transpose(TURNED[orientation]), "turned.jpg", exif=exif)
    assert difference(found, read(page)) < 0.02


@pytest.mark.parametrize("name", ["frames.gif", "frames.tif", "frames.png"])
def test_the_first_of_several_frames(read, page, name):
    other = Image.new("L", page.size)
    found = read(page, name, save_all=True, append_images=[other])
    assert difference(found, read(page)) < 0.01


@pytest.mark.parametrize(
    ("side", "name"), [(4000, "a.jpg"), (28, "a.png"), (18, "a.png")]
)
def test_from_18_to_4000_pixels(read, seven, side, name):
    image = enlarged(seven, side)
    assert difference(read(image, name), read(enlarged(seven))) < 0.02


# --- Images that cannot be read -----------------------------------------------


def cut_short(path):
    stroke(9, 9, 9, 200, 200).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-100])


def blank(mode, colour):
    return lambda path: Image.new(mode, (90, 60), colour).save(path, "PNG")


def noise(path):
    values = np.random.default_rng(0).normal(200, 5, (900, 700)).clip(0, 255)
    Image.fromarray(np.uint8(values)).save(path, "PNG")


def noise_on_a_small_page(path):
    values = np.random.default_rng(1).normal(120, 4.2, (130, 145)).clip(0, 255)
    Image.fromarray(np.uint8(values)).save(path, "PNG")


def fading(path):
    values = np.linspace(240, 90, 700) + np.random.default_rng(0).normal(
        0, 3, (500, 700)
    )
    Image.fromarray(np.uint8(values)).save(path, "PNG")


BAD_IMAGES = {
    "missing": (lambda path: None, "No such file or directory"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify image file"),
    "text": (lambda path: path.write_text("7"), "cannot identify image file"),
    "cut short": (cut_short, "truncated"),
    "too large": (
        lambda path: Image.new("1", (14000, 14000)).save(path, "PNG"),
        "exceeds limit",
    ),
    "white": (blank("L", 255), "there is no ink on it"),
    "black": (blank("1", 0), "there is no ink on it"),
    "16 bits": (blank("I;16", 1000), "there is no ink on it"),
    "nothing": (blank("RGBA", (0, 0, 0, 0)), "there is no ink on it"),
    "nothing known": (
        lambda path: Image.fromarray(np.full((60, 60), np.nan, "f4")).save(
            path, "TIFF"
        ),
        "there is no ink on it",
    ),
    "one pixel": (
        lambda path: Image.new("L", (1, 1)).save(path, "PNG"),
        "there is no ink on it",
    ),
    "paper": (noise, "there is no ink on it"),
    "small paper": (noise_on_a_small_page, "there is no ink on it"),
    "paper in fading light": (fading, "there is no ink on it"),
    "too narrow": (
        lambda path: stroke(1, 0, 0, 0, 499, size=(1, 500)).save(path, "PNG"),
        "cannot read",  # Pillow's reason differs between its versions
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_in_one_line(case, run, tmp_path):
    write, message = BAD_IMAGES[case]
    path = tmp_path / "bad.png"
    write(path)
    with pytest.raises(ValueError):
        cnn_mnist.read_digit(path)
    done = run("--predict", path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"cnn_mnist.py: error: cannot read {path}: ")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch, page, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", page.width * page.height * 2 // 3)
    page.save(tmp_path / "large.png")
    assert cnn_mnist.read_digit(tmp_path / "large.png").sum() > 50
    assert not recwarn.list


def test_a_bad_image_is_answered_before_keras_is_loaded(small_file):
    code = (
        "import sys, cnn_mnist\n"
        f"assert cnn_mnist.main(['--data', {small_file!r}, '--predict', 'x.png']) == 2\n"
        "print('keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": str(SCRIPT.parent)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"


# --- --predict ----------------------------------------------------------------


@pytest.fixture
def images(mnist, tmp_path, monkeypatch):
    """Three images in the current folder: 7, 2, 1."""
    monkeypatch.chdir(tmp_path)
    for name, digit in zip(("b.png", "a.jpg", "{c} %d.png"), mnist["x_test"]):
        photograph(digit).save(name)
    return ["b.png", os.path.join(".", "a.jpg"), "{c} %d.png"]


def test_predict_prints_a_line_for_each_image_in_order(run, small_file, saved, images):
    flags = ("--load-model", saved, "--epochs", 0, "--predict", *images)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    digits = np.array([cnn_mnist.read_digit(path) for path in images])
    answers = keras.saving.load_model(saved).predict(digits, verbose=0)
    lines = [
        f"{path}: {answer.argmax()} ({100 * answer.max():.1f} %)\n"
        for path, answer in zip(images, answers)
    ]
    before, *rest = done.out.splitlines(keepends=True)[:-3], *lines
    assert rest == done.out.splitlines(keepends=True)[-3:]
    assert RESULT.search("".join(before))


def test_predict_may_be_repeated(run, small_file, saved, images):
    flags = ("--load-model", saved, "--epochs", 0)
    flags += ("--predict", images[0], "--predict", *images[1:])
    done = run("--data", small_file, *flags)
    lines = done.out.splitlines()[-3:]
    assert [line.rpartition(": ")[0] for line in lines] == images


def test_a_pattern_is_expanded_as_windows_does_not(run, small_file, saved, images):
    flags = ("--load-model", saved, "--epochs", 0, "--predict", "*.png", images[1])
    done = run("--data", small_file, *flags)
    lines = done.out.splitlines()[-3:]
    names = [line.rpartition(": ")[0] for line in lines]
    assert names == ["b.png", "{c} %d.png", images[1]]


def test_a_file_whose_name_looks_like_a_pattern(run, small_file, saved, images):
    os.rename("b.png", "[b].png")
    flags = ("--load-model", saved, "--epochs", 0, "--predict", "[b].png")
    done = run("--data", small_file, *flags)
    assert done.out.splitlines()[-1].startswith("[b].png: ")


def test_without_the_flag_nothing_is_predicted(run, small_file, saved):
    done = run("--data", small_file, "--load-model", saved, "--epochs", 0)
    assert RESULT.search(done.out)


def test_predict_after_ctrl_c(run, small_file, images, monkeypatch):
    train = cnn_mnist.train

    def interrupted(model, x, y, batch_size, epochs, callbacks):
        callbacks[-1].pressed = True
        return train(model, x, y, batch_size, 1, callbacks)

    monkeypatch.setattr(cnn_mnist, "train", interrupted)
    done = run("--data", small_file, "--predict", *images)
    assert done.status == 130
    assert done.out.count(" %)\n") == 3


def test_predict_needs_an_image(run):
    done = run("--predict")
    assert (done.status, done.out) == (2, "")
    assert "argument --predict: expected at least one argument" in done.err
