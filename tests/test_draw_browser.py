"""draw.html in a real browser, Chromium: drawing, photographs, choosing, layout, accessibility."""

import base64
import functools
import io
import re
import shutil

import numpy as np
import page as node
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
# The corners of digits, in fractions of the pad.
SEVEN = [(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]
ONE = [(0.5, 0.2), (0.5, 0.8)]
ZERO = [(0.5, 0.2), (0.35, 0.35), (0.35, 0.65), (0.5, 0.8), (0.65, 0.65), (0.65, 0.35)]
ZERO += [(0.5, 0.2)]
BAR = [(0.2, 0.5), (0.8, 0.5)]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser):
    """A function that opens an empty page, in a window of the given kind."""

    @functools.cache
    def new_page(width, height, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, **options
        )
        page = context.new_page()
        page.messages, page.requests = [], []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        return page

    return new_page


def wait_for(page, condition):
    """Wait until a JavaScript expression is true. The page's policy allows no polling."""
    for _ in range(200):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(20)
    raise AssertionError(condition)


@pytest.fixture
def open_page(contexts):
    """A function that opens draw.html; a message on the console fails the test."""
    pages = []

    def open_page(width=1280, height=800, path=node.PAGE, **options):
        page = contexts(width, height, **options)
        page.goto("about:blank")  # so that nothing is left of the test before
        page.messages.clear()
        page.requests.clear()
        page.goto(path.as_uri())
        wait_for(page, "pictures")  # it unpacks its network first
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert not page.messages


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def phone(open_page):
    return open_page(390, 844, has_touch=True, is_mobile=True, device_scale_factor=3)


def at(page, x, y):
    """Return the point of the window at these fractions of the pad."""
    box = page.locator("#pad").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def draw(page, points, steps=5):
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=steps)
    page.mouse.up()


def seen(page):
    return np.reshape(page.evaluate("seen()"), (28, 28))


def answer(page):
    return page.inner_text("#answer")


def strokes(page):
    return page.evaluate("state.drawing.strokes.length")


def chosen(page):
    return page.evaluate("state.chosen")


def sample(page, digit):
    page.get_by_role("button", name=f"Sample {digit}").click()


def picture(page, stage):
    """Return the element of a stage's maps: 0 is the input, 1 the first layer."""
    return page.evaluate_handle(
        "(stage) => pictures.find((p) => p.stage === stage).element", stage
    ).as_element()


def results(page, stage, key="values"):
    shape = page.evaluate("(stage) => stages[stage].output_shape", stage)
    values = page.evaluate(
        "([stage, key]) => [...state.results[stage][key]]", [stage, key]
    )
    return np.reshape(values, shape)


def explain(page, stage, map, row=0, column=0, **more):
    page.evaluate(
        "(value) => choose(value, true)",
        {"stage": stage, "map": map, "row": row, "column": column, **more},
    )


def read_numbers(texts):
    return np.array([float(text.replace("−", "-")) for text in texts])


def numbers(page, caption):
    """Return the numbers of the table with this caption."""
    name = re.compile(f"^{caption}")
    table = page.locator("aside table", has=page.locator("caption", has_text=name))
    return read_numbers(table.locator("td").all_inner_texts())


def lines(page, table):
    """Return the numbers at the ends of the lines of a table of the panel."""
    cells = page.locator("aside table").nth(table).locator("tr td:last-child")
    return read_numbers(cells.all_inner_texts())


# --- Drawing ------------------------------------------------------------------------


def test_it_opens_with_a_sample_its_answer_and_an_explanation(page):
    assert answer(page) == "7"
    assert "products" in page.inner_text("aside")
    assert page.requests == [node.PAGE.as_uri()]
    policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("points, digit", [(SEVEN, "7"), (ONE, "1"), (ZERO, "0")])
def test_a_digit_drawn_with_the_mouse_is_read(page, points, digit):
    draw(page, points)
    assert answer(page) == digit
    expected = node.to_digit([[list(point) for point in points]])
    assert np.abs(seen(page) - expected).max() <= 0.2
    (outside,) = node.run([seen(page)])
    np.testing.assert_allclose(results(page, 7), outside[-1]["values"], rtol=1e-12)
    shown = re.search(r"[\d.]+", page.inner_text("#sure"))[0]
    assert float(shown) == pytest.approx(100 * results(page, 7).max(), abs=0.1)


def test_maps_and_bars_change_while_one_draws_once_a_frame(page):
    page.click("#clear")
    page.evaluate(
        "{ const real = run; window.runs = 0; run = (p) => { runs++; return real(p); }; } 0"
    )
    before = [picture(page, stage).screenshot() for stage in range(5)]
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.evaluate(
        """async () => {
          const pad = document.getElementById("pad");
          const { left, top, height } = pad.getBoundingClientRect();
          await new Promise(requestAnimationFrame);
          runs = 0;
          for (let y = 0.2; y < 0.8; y += 0.02) pad.dispatchEvent(new PointerEvent("pointermove",
            { pointerId: 1, clientX: left + height / 2, clientY: top + y * height }));
          await new Promise(requestAnimationFrame);
        }"""
    )
    assert page.evaluate("runs") == 1
    assert answer(page) == "1"
    assert all(picture(page, i).screenshot() != before[i] for i in range(5))
    heights = "[...document.querySelectorAll('#bars i')].map((bar) => parseFloat(bar.style.height))"
    assert page.evaluate(heights)[1] > 50
    page.mouse.up()


def test_clear_empties_everything_and_undo_brings_each_step_back(page):
    assert not page.is_enabled("#undo")
    draw(page, ONE)
    one = seen(page)
    draw(page, BAR)
    assert strokes(page) == 2
    page.click("#clear")
    assert (answer(page), seen(page).any()) == ("", False)
    assert "%" not in page.inner_text(".rows")
    assert not page.is_enabled("#clear")
    explain(page, 1, 3)
    assert page.locator("aside p").count() == 1  # that there is no ink
    page.click("#undo")
    assert strokes(page) == 2
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), one)
    page.click("#undo")
    assert page.evaluate("state.drawing.sample") == 7
    assert not page.is_enabled("#undo")


def test_a_stroke_that_leaves_the_pad_goes_on_and_ends_outside(page):
    draw(page, [(0.5, 0.5), (1.4, 0.5), (0.5, 0.9)])
    points = np.array(page.evaluate("state.drawing.strokes[0]"))
    assert points.max() == 1
    draw(page, [(0.5, 0.5), (0.5, 1.4)])
    count = page.evaluate("state.drawing.strokes[1].length")
    page.mouse.move(*at(page, 0.5, 0.5))
    assert page.evaluate("state.drawing.strokes[1].length") == count
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    assert strokes(page) == 2


def test_clear_and_resize_while_drawing_do_no_harm(open_page):
    page = open_page(900, 700)
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.set_viewport_size({"width": 500, "height": 800})
    page.mouse.move(*at(page, *ONE[1]), steps=5)
    points = np.array(page.evaluate("state.drawing.strokes[0]"))
    np.testing.assert_allclose(points[[0, -1]], ONE, atol=0.02)
    page.evaluate("document.querySelector('#clear').click()")
    page.mouse.move(*at(page, *ONE[0]), steps=5)
    page.mouse.up()
    assert answer(page) == ""
    page.set_viewport_size({"width": 900, "height": 700})


def pointer(page, kind, number, name, x, y):
    page.evaluate(
        """([kind, pointerId, name, x, y]) => {
          const pad = document.getElementById("pad");
          pad.setPointerCapture = () => {};
          const { left, top, width, height } = pad.getBoundingClientRect();
          pad.dispatchEvent(new PointerEvent(name, { pointerType: kind, pointerId,
            clientX: left + x * width, clientY: top + y * height }));
        }""",
        [kind, number, name, x, y],
    )


def test_a_pen_wins_over_the_hand_that_rests_on_the_pad(page):
    pointer(page, "touch", 5, "pointerdown", 0.9, 0.9)
    pointer(page, "touch", 5, "pointermove", 0.8, 0.9)
    pointer(page, "pen", 6, "pointerdown", *ONE[0])
    pointer(page, "touch", 5, "pointermove", 0.7, 0.9)
    pointer(page, "touch", 7, "pointerdown", 0.1, 0.9)  # another finger does not draw
    pointer(page, "pen", 6, "pointermove", *ONE[1])
    pointer(page, "pen", 6, "pointerup", *ONE[1])
    assert (strokes(page), answer(page)) == (1, "1")
    page.click("#undo")
    assert page.evaluate("state.drawing.sample") == 7


# --- Moving -----------------------------------------------------------------------


def test_arrow_buttons_move_the_image_and_not_the_drawing(page):
    before, line = seen(page), page.get_attribute("#strokes", "d")
    for name in ("down", "right", "right"):
        page.click(f"[aria-label='Move {name}']")
    expected = np.zeros((28, 28))
    expected[1:, 2:] = before[:-1, :-2]
    np.testing.assert_array_equal(seen(page), expected)
    assert page.get_attribute("#strokes", "d") == line
    page.click("text=Centre")
    np.testing.assert_array_equal(seen(page), before)


def test_a_row_of_moves_ends_in_sight_and_is_one_step_back(page):
    before = seen(page)
    for _ in range(30):
        page.click("[aria-label='Move left']")
    assert seen(page).any()
    moved = seen(page)
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), before)
    assert not page.is_enabled("#undo")
    assert (moved != before).any()


def test_a_move_stays_when_a_stroke_is_added(page):
    draw(page, ONE)
    page.click("[aria-label='Move left']")
    draw(page, BAR)
    assert page.evaluate("state.drawing.move") == [0, -1]


def test_the_experiments_and_samples_do_what_they_say(page):
    for digit in range(10):
        sample(page, digit)
        assert answer(page) == str(digit)
    for name in page.locator("#tries button").all_inner_texts():
        page.get_by_role("button", name=name).click()
        assert len(page.inner_text("#lesson")) > 40
        assert float(re.search(r"[\d.]+", page.inner_text("#sure"))[0]) > 90
    page.get_by_role("button", name="Move a 0 up").click()
    assert answer(page) == "4"


# --- Photographs --------------------------------------------------------------------


def photograph(digit, ink=40, paper=220, turned=0):
    """Return a page of 600 by 800 pixels with an MNIST digit of 200 at (300, 450)."""
    sheet = Image.new("L", (600, 800), paper)
    large = Image.fromarray(digit).resize((200, 200), Image.Resampling.BICUBIC)
    sheet.paste(ink, (300, 450), large)
    return sheet.rotate(turned, expand=True)


def file(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    name = f"digit.{kind.lower()}"
    return {
        "name": name,
        "mimeType": f"image/{kind.lower()}",
        "buffer": buffer.getvalue(),
    }


def give(page, image, kind="PNG", **options):
    page.set_input_files("#photo", file(image, kind, **options))
    wait_for(page, "state.drawing.photo")
    page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def seven(mnist):
    return mnist["x_test"][0]  # a seven


def boxed(page):
    return np.array(page.evaluate("state.drawing.photo.box"))


def test_a_photograph_is_read_and_its_rectangle_is_around_the_digit(page, seven):
    give(page, photograph(seven))
    assert answer(page) == "7"
    scale = 600 / 800
    inside = np.array([300, 450, 500, 650]) * scale
    assert np.abs(boxed(page) - inside).max() < 50
    page.click("#undo")
    assert page.evaluate("[state.drawing.sample, state.drawing.photo]") == [7, None]
    give(page, photograph(seven))  # the same file again
    page.click("#clear")
    draw(page, ONE)
    assert answer(page) == "1"


def test_a_photograph_stands_upright_as_its_exif_says(page, seven):
    turned = photograph(seven, turned=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    give(page, turned, "JPEG", exif=exif)
    assert page.evaluate("state.drawing.photo.image.height") == 600
    assert answer(page) == "7"


def test_a_picture_can_be_pasted_and_dropped(page, seven):
    data = base64.b64encode(file(photograph(seven))["buffer"]).decode()
    for name, key in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate(
            """([data, name, key]) => {
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
              const Kind = name === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new Kind(name, { bubbles: true, cancelable: true, [key]: transfer }));
            }""",
            [data, name, key],
        )
        wait_for(page, "state.drawing.photo")
        assert answer(page) == "7"
        page.click("#clear")


def test_a_rectangle_chooses_one_of_two_digits(page, mnist, seven):
    other = mnist["x_test"][2]  # a one
    sheet = photograph(seven)
    large = Image.fromarray(other).resize((280, 280), Image.Resampling.BICUBIC)
    sheet.paste(40, (20, 100), large)
    give(page, sheet)

    def drag(x0, y0, x1, y1):
        """From a place of the sheet to another, which stands in the middle of the pad."""
        places = [((x + 100) / 800, y / 800) for x, y in ((x0, y0), (x1, y1))]
        draw(page, places)

    drag(285, 435, 515, 665)
    assert answer(page) == "7"
    drawn = boxed(page)
    np.testing.assert_allclose(
        drawn, np.array([285, 435, 515, 665]) * 0.75, atol=4
    )  # a pixel of the screen is 2.3 of the photograph
    drag(400, 550, 180, 265)  # from inside: the rectangle moves, to the other digit
    np.testing.assert_allclose(boxed(page)[2:] - boxed(page)[:2], drawn[2:] - drawn[:2])
    assert answer(page) == "1"
    corner = boxed(page) / 0.75
    drag(corner[2], corner[3], 330, 420)
    np.testing.assert_allclose(boxed(page)[:2], corner[:2] * 0.75)
    np.testing.assert_allclose(boxed(page)[2:], np.array([330, 420]) * 0.75, atol=4)
    drag(320, 10, 590, 300)  # where nothing is
    assert answer(page) == ""
    page.click("#undo")
    assert answer(page) == "1"
    drag(320, 10, 700, 900)  # the edges of the photograph can be reached
    assert boxed(page)[2:].tolist() == [450, 600]


def test_a_proposal_that_is_too_large_can_be_drawn_over(page, seven):
    """From inside of it: only a rectangle that a person drew moves."""
    page.set_input_files("#photo", file(photograph(seven)))
    wait_for(page, "state.drawing.photo")
    left, top, right, bottom = [n / 600 for n in boxed(page)]
    middle = [(left + right) / 2 + 0.125, (top + bottom) / 2]
    draw(page, [middle, (0.125 + right - 0.02, bottom - 0.02)])
    width = boxed(page)[2] - boxed(page)[0]
    assert width == pytest.approx(300 * (right - left) - 12, abs=4)


def test_the_keyboard_moves_and_sizes_the_rectangle(page, seven):
    give(page, photograph(seven))
    before = boxed(page)
    page.focus("#pad")
    page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(boxed(page) - before, [-12, 0, -12, 0])
    page.keyboard.press("Shift+ArrowDown")
    np.testing.assert_allclose(boxed(page) - before, [-12, 0, -12, 12])


def test_light_ink_can_be_chosen(page, seven):
    give(page, photograph(seven, ink=230, paper=60))
    assert answer(page) == "7"
    assert page.get_attribute("#turn", "aria-pressed") == "true"
    page.click("#turn")
    assert page.get_attribute("#turn", "aria-pressed") == "false"
    page.click("#turn")
    assert answer(page) == "7"


def test_a_file_that_is_no_picture_leaves_the_drawing(page):
    draw(page, ONE)
    heic = {"name": "a.heic", "mimeType": "image/heic", "buffer": b"ftypheic" * 9}
    before = page.inner_text("#hint")
    page.set_input_files("#photo", heic)
    wait_for(page, "document.querySelector('#status').textContent.length > 30")
    assert page.inner_text("#hint") != before
    assert answer(page) == "1"


def test_the_ink_is_shown_on_the_photograph(page, seven):
    """Where the digit is, the accent's colour; elsewhere the photograph's grey."""
    give(page, photograph(seven))
    url = page.evaluate("document.querySelector('#picture').toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    pixels = np.asarray(picture.convert("RGB"), int)
    coloured = np.argwhere(pixels[..., 0] - pixels[..., 1] > 60)
    ink = np.argwhere(np.asarray(photograph(seven)) < 100) * 0.75 + [0, 75]
    np.testing.assert_allclose(
        [coloured.min(0), coloured.max(0)], [ink.min(0), ink.max(0)], atol=9
    )
    sample(page, 3)
    assert page.evaluate("document.querySelector('#picture').width") == 1


# --- The stages -----------------------------------------------------------------------


def test_each_layer_stands_with_its_shapes_and_parameters(page):
    layers = page.locator(".stage h2 + p").all_inner_texts()[:8]
    assert [text.split(" ")[0] for text in layers] == [
        "Input",
        "Conv2D",
        "MaxPooling2D",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dropout",
        "Dense",
    ]
    text = page.inner_text("#way")
    for words in ("(26, 26, 32) · 320 ", "18,496", "16,010"):
        assert words in text


@pytest.mark.parametrize("stage", [0, 1, 4])
def test_all_maps_are_painted_by_lightness(page, stage):
    """How strong the ink of a point is says how large its value is."""
    values = results(page, stage)
    painted = page.evaluate(
        """(stage) => [...pictures.find((p) => p.stage === stage).element.querySelectorAll("canvas")].map((canvas) =>
          [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 3))""",
        stage,
    )
    expected = np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1) / values.max()
    np.testing.assert_allclose(np.array(painted) / 255, expected, atol=0.01)


def test_scores_probabilities_and_legends_are_the_networks(page):
    scores = read_numbers(page.locator(".rows button").all_inner_texts())
    np.testing.assert_allclose(scores, results(page, 7, "sums"), atol=0.0051)
    sure = page.locator(".rows tbody tr").nth(7).locator("td").last.inner_text()
    assert sure == page.inner_text("#sure").split("\n")[0]
    left, width = page.evaluate(
        "[...document.querySelectorAll('.rows i')].map((bar) => [parseFloat(bar.style.left), parseFloat(bar.style.width)])"
    )[3]
    length = 50 * scores[3] / np.abs(scores).max()
    assert (left, width) == pytest.approx((50 + min(0, length), abs(length)), abs=0.1)
    legend = page.locator("#way .legend").first.inner_text()
    assert float(re.findall(r"[\d.]+", legend)[-1]) == pytest.approx(
        results(page, 1).max(), abs=0.0051
    )


# --- Choosing a value -----------------------------------------------------------------


def point_at(page, stage, map=0, row=0, column=0):
    """Return the middle of a value in the window, scrolled into view."""
    canvas = picture(page, stage).query_selector_all("canvas")[map]
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    rows, columns = page.evaluate("(stage) => mapsShape(stage).slice(0, 2)", stage)
    x = box["x"] + (column + 0.5) * box["width"] / columns
    return x, box["y"] + (row + 0.5) * box["height"] / rows


def rest(page):
    page.wait_for_timeout(150)


@pytest.mark.parametrize(
    "value", [(0, 0, 5, 7), (1, 9, 25, 3), (2, 31, 0, 12), (4, 63, 4, 2)]
)
def test_the_pointer_shows_the_value_on_which_it_rests(page, value):
    page.mouse.move(*point_at(page, *value))
    rest(page)
    found = chosen(page)
    assert (found["stage"], found["map"], found["row"], found["column"]) == value


def test_on_the_way_to_the_panel_nothing_changes(page):
    page.mouse.move(*point_at(page, 1, 0, 4, 4))
    rest(page)
    before = chosen(page)
    box = page.locator("aside").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 100, steps=20)
    rest(page)
    assert chosen(page) == before


def test_a_click_keeps_a_value_until_another_or_escape(page):
    page.mouse.click(*point_at(page, 1, 0, 4, 4))
    pinned = chosen(page)
    page.mouse.move(*point_at(page, 1, 1, 8, 8))
    rest(page)
    assert chosen(page) == pinned
    page.mouse.click(*point_at(page, 1, 1, 8, 8))
    assert chosen(page)["map"] == 1
    page.keyboard.press("Escape")
    assert chosen(page) is None
    assert "kept" not in page.inner_text("#status")


@pytest.mark.parametrize(
    "stage, row, previous, patch",
    [
        (1, 4, (4, 6), (4, 6)),
        (2, 4, (8, 9), (8, 11)),
        (3, 4, (4, 6), (8, 15)),
        (4, 4, (8, 9), (16, 25)),
    ],
)
def test_the_inputs_of_a_value_and_its_patch_on_the_digit_are_outlined(
    page, stage, row, previous, patch
):
    """A patch has 3, 4, 8 and 10 pixels."""
    explain(page, stage, 2, row, row)
    for other, expected in ((stage - 1, previous), (0, patch)):
        area = page.evaluate("(stage) => outlinedIn(stage, state.chosen)", other)
        assert tuple(area["rows"]) == tuple(area["columns"]) == expected
    side = patch[1] - patch[0] + 1
    assert f" {side} by {side} pixels" in page.inner_text("aside")
    shown = picture(page, 0).query_selector(".outline").bounding_box()
    image = picture(page, 0).query_selector("canvas").bounding_box()
    assert shown["width"] - 4 == pytest.approx(side * image["width"] / 28, abs=0.5)
    inside = shown["x"] + 2 - image["x"]
    assert inside == pytest.approx(patch[0] * image["width"] / 28, abs=0.5)


def test_a_convolutions_inputs_are_outlined_in_all_maps_a_poolings_in_one(page):
    count = "(stage) => [...pictures.find((p) => p.stage === stage).element.querySelectorAll('.outline')].filter((o) => !o.hidden).length"
    explain(page, 3, 5, 4, 4)
    assert [page.evaluate(count, i) for i in range(4)] == [1, 0, 32, 1]
    explain(page, 4, 5, 4, 4)
    assert [page.evaluate(count, i) for i in range(5)] == [1, 0, 0, 1, 1]


# --- Explanations ---------------------------------------------------------------------


def kernel(page, layer):
    return np.reshape(
        page.evaluate("(layer) => [...network[layer].kernel]", layer),
        page.evaluate("(layer) => network[layer].weights.kernel", layer),
    )


def test_a_value_of_the_first_convolution_is_nine_products(page):
    explain(page, 1, 3, 6, 12)
    window = seen(page)[6:9, 12:15].ravel()
    weights = kernel(page, 0)[:, :, 0, 3].ravel()
    np.testing.assert_allclose(numbers(page, "window"), window, atol=0.0051)
    np.testing.assert_allclose(numbers(page, "products"), window * weights, atol=0.0051)
    products, bias, total, value = lines(page, 3)
    assert products + bias == pytest.approx(total, abs=0.0011)
    assert total == pytest.approx(results(page, 1, "sums")[6, 12, 3], abs=0.00051)
    assert value == pytest.approx(results(page, 1)[6, 12, 3], abs=0.00051)
    first = page.evaluate(
        "Array.from({ length: 9 }, (_, i) => networks.untrained[0].kernel[32 * i + 3])"
    )
    shown = numbers(page, "this kernel before training")
    np.testing.assert_allclose(shown, first, atol=0.0051)


def test_a_value_of_the_second_convolution_is_the_sum_of_32_maps(page):
    explain(page, 3, 48, 2, 5)
    weights, window = kernel(page, 2)[..., 48], results(page, 2)[2:5, 5:8]
    subtotals = read_numbers(page.locator("#subtotals button").all_inner_texts())
    expected = np.einsum("ijc,ijc->c", window, weights)
    np.testing.assert_allclose(subtotals, expected, atol=0.0051)
    page.locator("#subtotals button").nth(20).click()
    np.testing.assert_allclose(
        numbers(page, "window"), window[..., 20].ravel(), atol=0.0051
    )
    np.testing.assert_allclose(
        numbers(page, "kernel"), weights[..., 20].ravel(), atol=0.0051
    )
    opened, others, bias, total, value = lines(page, 3)
    assert opened == pytest.approx(expected[20], abs=0.00051)
    assert opened + others + bias == pytest.approx(total, abs=0.0016)
    assert value == pytest.approx(results(page, 3)[2, 5, 48], abs=0.00051)
    page.click("aside .link")  # its name leads to the map
    assert chosen(page) == {"stage": 2, "map": 20, "row": 3, "column": 6}


def test_a_region_shows_its_four_values_and_the_winner(page):
    explain(page, 2, 3, 4, 6)
    region = results(page, 1)[8:10, 12:14, 3].ravel()
    np.testing.assert_allclose(numbers(page, "region"), region, atol=0.0051)
    winner = page.locator("aside td.winner").inner_text()
    assert float(winner) == pytest.approx(region.max(), abs=0.0051)
    row, column, map = map_of_zeros = np.argwhere(results(page, 2) == 0)[0].tolist()
    assert len(map_of_zeros) == 3
    explain(page, 2, map, row, column)
    assert page.locator("aside td.winner").count() == 0


def test_why_shows_what_each_place_adds(page):
    """25 places and the biases are the difference of the two scores."""
    page.click("#why")
    scores = results(page, 7, "sums")
    second = int(np.argsort(scores)[-2])
    weights = np.reshape(kernel(page, 6), (25, 64, 10))
    values = np.reshape(results(page, 6), (25, 64))
    places = np.einsum("pm,pm->p", values, weights[..., 7] - weights[..., second])
    shown = read_numbers(page.locator("#evidence text").all_text_contents())
    np.testing.assert_allclose(shown, places, atol=0.051)
    together, bias, total = lines(page, 0)
    assert together == pytest.approx(places.sum(), abs=0.0006)
    assert together + bias == pytest.approx(total, abs=0.0011)
    assert total == pytest.approx(scores[7] - scores[second], abs=0.0006)
    # The middle of a place is the middle of the ten pixels that it sees.
    xs = page.evaluate(
        "[...document.querySelectorAll('#evidence text')].map((t) => t.getAttribute('x'))"
    )
    assert [float(x) for x in xs[:5]] == [5, 9, 13, 17, 21]
    colours = page.evaluate(
        "[...document.querySelectorAll('#evidence rect')].map((r) => r.getAttribute('fill'))"
    )
    for value, colour in zip(places, colours):
        assert ("minus" in colour) == (value < 0)
    # Another digit can be compared.
    page.select_option("#rival", "1")
    assert lines(page, 0)[-1] == pytest.approx(scores[7] - scores[1], abs=0.0006)
    page.select_option("#rival", "")
    assert lines(page, 0)[-1] == pytest.approx(scores[7], abs=0.0006)


def test_the_explanation_of_the_answer_follows_the_answer(page):
    page.click("#why")
    sample(page, 4)
    second = np.argsort(results(page, 7))[-2]
    assert re.findall(r"\d", page.inner_text("aside h2")) == ["4", str(second)]
    explain(page, 7, 2)
    sample(page, 3)
    assert re.findall(r"\d", page.inner_text("aside h2")) == ["2"]


def test_a_bar_leads_to_its_score(page):
    page.locator("#bars span").nth(3).click()
    assert page.inner_text("aside h2").strip() == "Score of 3"
    score = results(page, 7, "sums")[3]
    assert lines(page, 0)[-1] == pytest.approx(score, abs=0.0006)


def test_a_probability_is_calculated_by_powers_of_e(page):
    row = page.locator(".rows tbody tr").nth(3).inner_text()
    factor, exponent = re.search(r"\s([\d.]+)\s·\s10\s*(−?\d+)", row).groups()
    power = np.exp(results(page, 7, "sums")[3])
    found = float(factor) * 10.0 ** int(exponent.replace("−", "-"))
    assert found == pytest.approx(power, rel=0.006)


def test_untrained_shows_the_network_before_training(page):
    trained = results(page, 1)
    page.get_by_role("button", name="Untrained").click()
    (expected,) = node.run([seen(page)], which="first_weights")
    np.testing.assert_allclose(results(page, 7), expected[-1]["values"], rtol=1e-12)
    assert results(page, 7).max() < 0.3
    assert not np.allclose(results(page, 1), trained)
    explain(page, 1, 3, 6, 12)
    weights = kernel(page, 0)[:, :, 0, 3].ravel()
    np.testing.assert_allclose(numbers(page, "kernel"), weights, atol=0.0051)
    page.get_by_role("button", name="Trained", exact=True).click()
    np.testing.assert_array_equal(results(page, 1), trained)


def test_a_new_explanation_begins_at_its_top(page):
    page.click("#why")
    page.evaluate("document.querySelector('aside').scrollTo(0, 9999)")
    page.locator("#evidence g").first.click()
    assert page.evaluate("document.querySelector('aside').scrollTop") == 0


# --- Keyboard, touch, screens ---------------------------------------------------------


def focus_by_tab(page, element):
    for _ in range(60):
        page.keyboard.press("Tab")
        if element.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError("Tab does not reach it")


def test_the_keyboard_alone_chooses_a_sample_and_a_value(page):
    focus_by_tab(page, page.get_by_role("button", name="Sample 2"))
    page.keyboard.press("Enter")
    assert answer(page) == "2"
    page.keyboard.press("Escape")
    focus_by_tab(page, picture(page, 1))
    page.keyboard.press("ArrowLeft")
    first = chosen(page)
    place = [first[key] for key in ("row", "column", "map")]
    assert results(page, 1)[*place] == results(page, 1).max()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    value = chosen(page)
    assert value["column"] == first["column"] - 1
    shown = results(page, 1)[value["row"], value["column"], value["map"]]
    assert f"{shown:.3f}" in page.inner_text("#status")
    explain(page, 1, 0, 3, 25)
    page.keyboard.press("ArrowRight")
    found = chosen(page)
    assert (found["map"], found["row"], found["column"]) == (1, 3, 0)
    page.locator(".rows button").nth(7).focus()
    page.keyboard.press("Enter")
    assert (chosen(page)["stage"], chosen(page)["map"]) == (7, 7)


def test_why_takes_the_focus_to_its_answer_and_escape_brings_it_back(page):
    page.focus("#why")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "ASIDE"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "why"
    explain(page, 3, 48, 2, 5)
    button = page.locator("#subtotals button").nth(4)
    button.focus()
    page.keyboard.press("Enter")
    label = page.evaluate("document.activeElement.ariaLabel")
    assert label.startswith("map 4:")
    page.get_by_role("button", name="Close").focus()
    page.keyboard.press("Enter")
    focused = "(element) => element === document.activeElement"
    assert picture(page, 3).evaluate(focused)


def touch(page, *events):
    """Send touch events: each a kind and the places of the fingers on the pad."""
    session = page.context.new_cdp_session(page)
    for kind, *fingers in events:
        points = [
            dict(zip("xy", at(page, *place)), id=i) for i, place in enumerate(fingers)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_a_finger_draws_and_the_page_does_not_scroll(phone):
    moves = [("touchMove", (0.5, y)) for y in np.linspace(0.8, 0.1, 8)]
    touch(phone, ("touchStart", (0.5, 0.9)), *moves, ("touchEnd",))
    assert phone.evaluate("scrollY") == 0
    assert (answer(phone), strokes(phone)) == ("1", 1)


def test_a_tap_on_a_phone_shows_its_numbers_and_leaves_it_in_sight(phone):
    assert not phone.locator("aside").is_visible()
    x, y = point_at(phone, 1, 2, 12, 12)
    phone.evaluate("(y) => scrollBy(0, y - 800)", y)  # near the lower edge
    phone.touchscreen.tap(x, point_at(phone, 1, 2, 12, 12)[1])
    assert chosen(phone)["stage"] == 1
    rest(phone)
    sheet = phone.locator("aside").bounding_box()
    tapped = phone.locator(".outline:visible").last.bounding_box()
    assert tapped["y"] + tapped["height"] <= sheet["y"]
    end = phone.locator("aside tr.total").last.bounding_box()
    assert end["y"] + end["height"] - sheet["y"] <= 300
    phone.get_by_role("button", name="Value right").click()
    assert chosen(phone)["column"] == 13
    phone.get_by_role("button", name="Close").click()
    assert not phone.locator("aside").is_visible()


@pytest.mark.parametrize(
    "width, height", [(320, 640), (640, 360), (844, 390), (1024, 768), (1600, 900)]
)
def test_no_width_scrolls_sideways(open_page, width, height):
    page = open_page(width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if height < 500:  # such a screen is too low for a sheet
        assert page.locator("aside").is_visible()
    for value in ((3, 48, 2, 5), (1, 3, 6, 12)):
        explain(page, *value)
        panel = "document.querySelector('aside')"
        assert page.evaluate(f"{panel}.scrollWidth <= {panel}.clientWidth")


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {}])
def test_axe_finds_no_violation(open_page, options, seven):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for width in (390, 1280):
        page = open_page(width, **options)
        for value in (None, (3, 48, 2, 5), (7, 7), "photograph"):
            if value == "photograph":
                give(page, photograph(seven))
            elif value:
                explain(page, *value)
            found = axe.Axe().run(page).response["violations"]
            assert not [
                (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found
            ]


def test_data_keeps_its_colours_in_high_contrast(open_page):
    page = open_page(forced_colors="active")
    for selector in ("#bars i", ".rows i", "canvas", ".grids td"):
        adjust = "(element) => getComputedStyle(element).forcedColorAdjust"
        assert page.locator(selector).first.evaluate(adjust) == "none", selector


def test_a_saved_page_opens_as_the_page_does(open_page, page, tmp_path):
    path = tmp_path / "saved.html"
    path.write_text(page.content(), encoding="utf-8")
    saved = open_page(path=path)
    assert saved.locator("#way .stage").count() == 8
    assert saved.locator("#samples button").count() == 10
    assert answer(saved) == "7"


def test_the_written_page_of_another_network_works(open_page, tmp_path):
    import keras

    import cnn_mnist

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.Conv2D(5, 5, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.AveragePooling2D(3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    path = tmp_path / "mine.html"
    path.write_text(cnn_mnist.page_of(model), encoding="utf-8")
    page = open_page(path=path)
    assert answer(page) in set("0123456789")
    assert page.get_by_role("button", name="Untrained").count() == 0
    for stage in range(2, 8):
        picture(page, stage).focus()
        page.keyboard.press("ArrowRight")
        assert chosen(page)["stage"] == stage
        value = page.evaluate("resultOf(state.chosen)")
        assert lines(page, -1)[-1] == pytest.approx(value, abs=0.00051)
    page.click("#why")
    assert page.locator("#evidence").count() == 0
    explain(page, 2, 2, 0, 0)
    assert page.locator("aside td.outside").count() > 0
