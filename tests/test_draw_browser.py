"""draw.html in a real browser, Chromium: drawing, choosing, layout, accessibility."""

import functools
import re
import shutil

import numpy as np
import page as node
import pytest

sync_api = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
# The corners of digits, in fractions of the pad.
SEVEN = [(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]
ONE = [(0.5, 0.2), (0.5, 0.8)]
ZERO = [(0.5, 0.2), (0.35, 0.35), (0.35, 0.65), (0.5, 0.8), (0.65, 0.65), (0.65, 0.35)]
ZERO += [(0.5, 0.2)]


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


@pytest.fixture
def open_page(contexts):
    """A function that opens draw.html; a message on the console fails the test."""
    pages = []

    def open_page(width=1280, height=800, **options):
        page = contexts(width, height, **options)
        page.set_viewport_size({"width": width, "height": height})
        page.goto("about:blank")  # so that nothing is left of the test before
        page.messages.clear()
        page.requests.clear()
        page.goto(node.PAGE.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert not page.messages


@pytest.fixture
def page(open_page):
    return open_page()


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
    return page.evaluate("state.strokes.length")


def chosen(page):
    return page.evaluate("state.chosen")


def maps(page, stage):
    """Return the maps of a stage: 0 is the input, 1 the first layer."""
    return page.locator(".stage").nth(stage).locator(".maps")


def picture(page, stage):
    return page.evaluate(
        "(stage) => document.querySelectorAll('.stage')[stage].querySelector('canvas').toDataURL()",
        stage,
    )


def explanation(page):
    return page.inner_text("aside").replace("−", "-")


# --- Drawing ------------------------------------------------------------------------


def test_it_opens_with_a_sample_and_its_answer(page):
    assert answer(page) == "7"
    assert seen(page).any()


def test_it_opens_with_an_explanation(page):
    assert "products" in explanation(page)


def test_it_makes_no_request_but_for_itself(page):
    draw(page, ZERO)
    assert page.requests == [node.PAGE.as_uri()]


def test_the_content_security_policy_lets_nothing_be_loaded(page):
    policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("points, digit", [(SEVEN, "7"), (ONE, "1"), (ZERO, "0")])
def test_a_digit_drawn_with_the_mouse_is_read(page, points, digit):
    draw(page, points)
    assert answer(page) == digit


def test_the_first_stroke_replaces_the_sample(page):
    draw(page, ONE)
    expected = node.to_digit([[list(point) for point in ONE]])
    assert np.abs(seen(page) - expected).max() <= 0.15


def test_a_second_stroke_is_added(page):
    draw(page, [(0.2, 0.2), (0.2, 0.8)])
    draw(page, [(0.8, 0.2), (0.8, 0.8)])
    assert strokes(page) == 2


def test_the_network_gets_what_seen_returns(page):
    draw(page, ZERO)
    difference = page.evaluate(
        "run(seen()).map((layer, i) => Math.max(...layer.values.map((value, place) =>"
        " Math.abs(value - state.results[i + 1].values[place]))))"
    )
    assert len(difference) == 7
    assert max(difference) == 0


def test_run_gives_the_same_in_the_browser_as_outside(page):
    pixels = seen(page)
    found = page.evaluate(
        "(pixels) => run(pixels).at(-1).values", pixels.ravel().tolist()
    )
    (expected,) = node.run([pixels])
    np.testing.assert_allclose(found, expected[-1]["values"], rtol=1e-12)


def test_maps_and_bars_change_while_one_draws(page):
    page.click("#clear")
    before = [picture(page, stage) for stage in range(5)]
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.mouse.move(*at(page, *ONE[1]), steps=5)
    page.wait_for_function("state.strokes[0].length > 1")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert answer(page) == "1"
    assert all(picture(page, stage) != before[stage] for stage in range(5))
    heights = "[...document.querySelectorAll('#bars i')].map((bar) => parseFloat(bar.style.height))"
    assert page.evaluate(heights)[1] > 50


def test_a_frame_is_calculated_once(page):
    page.evaluate(
        "{ const real = run; window.runs = 0; run = (p) => { runs++; return real(p); }; } 0"
    )
    page.evaluate(
        """async () => {
          const pad = document.getElementById("pad");
          const box = pad.getBoundingClientRect();
          const send = (type, x) => pad.dispatchEvent(new PointerEvent(type, {
            pointerId: 1, clientX: box.left + x, clientY: box.top + 50 }));
          pad.setPointerCapture = () => {};
          send("pointerdown", 20);
          runs = 0;
          for (let x = 21; x < 60; x++) send("pointermove", x);
          await new Promise(requestAnimationFrame);
        }"""
    )
    assert page.evaluate("runs") == 1


def test_clear_empties_everything(page):
    draw(page, ZERO)
    page.click("#clear")
    assert answer(page) == ""
    assert not seen(page).any()
    assert page.get_attribute("#pad path", "d") == ""
    values = page.locator(".rows").inner_text()
    assert "%" not in values


def test_one_can_draw_after_clear(page):
    page.click("#clear")
    draw(page, ONE)
    assert answer(page) == "1"


def test_undo_takes_the_last_stroke_back(page):
    draw(page, ONE)
    before = seen(page)
    draw(page, [(0.2, 0.5), (0.8, 0.5)])
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), before)


def test_undo_of_the_first_stroke_brings_the_sample_back(page):
    draw(page, ONE)
    page.click("#undo")
    assert answer(page) == "7"
    page.click("#undo")  # nothing is left to undo
    assert answer(page) == "7"


def test_undo_brings_back_what_was_cleared(page):
    draw(page, ONE)
    before = seen(page)
    page.click("#clear")
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), before)


def test_the_probability_of_the_answer_is_shown(page):
    for digit in range(10):
        page.get_by_role("button", name=f"Sample {digit}").click()
        shown = re.search(r"[\d.]+", page.inner_text("#sure"))[0]
        assert float(shown) == pytest.approx(100 * results(page, 7).max(), abs=0.1)


def test_no_probability_is_shown_as_certain(page):
    texts = page.evaluate("[0, 0.0004, 0.0006, 0.9994, 0.9996, 1].map(percent)")
    texts = [text.replace("\xa0", "") for text in texts]
    assert texts == ["<0.1%", "<0.1%", "0.1%", "99.9%", ">99.9%", ">99.9%"]


def test_the_second_guess_is_shown(page):
    values = page.evaluate("state.results.at(-1).values")
    second = np.argsort(values)[-2]
    assert f": {second}," in page.inner_text("#sure")


@pytest.mark.parametrize("digit", range(10))
def test_each_sample_is_read(page, digit):
    page.get_by_role("button", name=f"Sample {digit}").click()
    assert answer(page) == str(digit)


def test_a_stroke_that_leaves_the_pad_goes_on_and_ends_outside(page):
    draw(page, [(0.5, 0.5), (1.4, 0.5), (0.5, 0.9)])
    assert strokes(page) == 1
    points = np.array(page.evaluate("state.strokes[0]"))
    assert points.max() == 1
    draw(page, [(0.5, 0.5), (0.5, 1.4)])
    count = page.evaluate("state.strokes[1].length")
    page.mouse.move(*at(page, 0.5, 0.5))
    assert page.evaluate("state.strokes[1].length") == count


def test_the_other_mouse_buttons_do_not_draw(page):
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    assert page.evaluate("state.sample") == 7


def test_clear_while_drawing_does_no_harm(page):
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.evaluate("document.querySelector('#clear').click()")
    page.mouse.move(*at(page, *ONE[1]), steps=5)
    page.mouse.up()
    assert answer(page) == ""


def test_a_resize_while_drawing_keeps_the_stroke(page):
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.set_viewport_size({"width": 500, "height": 800})
    page.mouse.move(*at(page, *ONE[1]), steps=5)
    page.mouse.up()
    points = np.array(page.evaluate("state.strokes[0]"))
    np.testing.assert_allclose(points[[0, -1]], ONE, atol=0.02)


# --- Moving -----------------------------------------------------------------------


def test_arrow_buttons_move_the_digit_without_centring_it(page):
    before = seen(page)
    page.click("[aria-label='Move down']")
    page.click("[aria-label='Move right']")
    page.click("[aria-label='Move right']")
    expected = np.zeros((28, 28))
    expected[1:, 2:] = before[:-1, :-2]
    np.testing.assert_array_equal(seen(page), expected)
    page.click("[aria-label='Move up']")
    page.click("[aria-label='Move left']")
    page.click("[aria-label='Move left']")
    np.testing.assert_array_equal(seen(page)[:27], before[:27])


def test_the_drawing_on_the_pad_moves_along(page):
    line, pad = page.locator("#pad path"), page.locator("#pad").bounding_box()
    before = line.bounding_box()
    page.click("[aria-label='Move down']")
    page.click("[aria-label='Move left']")
    after = line.bounding_box()
    step = pad["width"] / 28
    assert after["y"] - before["y"] == pytest.approx(step, abs=1)
    assert before["x"] - after["x"] == pytest.approx(step, abs=1)


def test_a_digit_cannot_be_moved_out_of_sight(page):
    for _ in range(30):
        page.click("[aria-label='Move left']")
    assert seen(page).any()
    assert answer(page) != ""


def test_centre_undoes_the_moves(page):
    before = seen(page)
    page.click("[aria-label='Move left']")
    page.click("text=Centre")
    np.testing.assert_array_equal(seen(page), before)


def test_undo_takes_one_move_back(page):
    page.click("[aria-label='Move left']")
    before = seen(page)
    page.click("[aria-label='Move left']")
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), before)


def test_undo_of_a_stroke_keeps_the_move_before_it(page):
    draw(page, ONE)
    page.click("[aria-label='Move left']")
    before = seen(page)
    draw(page, [(0.2, 0.5), (0.8, 0.5)])
    page.click("#undo")
    np.testing.assert_array_equal(seen(page), before)


def test_a_new_stroke_is_centred_again_from_its_beginning(page):
    page.click("[aria-label='Move left']")
    page.mouse.move(*at(page, *ONE[0]))
    page.mouse.down()
    page.mouse.move(*at(page, *ONE[1]), steps=5)
    mean = np.average(np.arange(28), weights=seen(page).sum(axis=0))
    assert mean == pytest.approx(14, abs=0.06)


def test_no_answer_depends_on_the_last_two_rows_and_columns(page):
    assert page.evaluate("[0, 1].map((axis) => lastUsed(0, axis))") == [25, 25]
    same = """(place) => {
      const pixels = seen();
      pixels[place] = 1 - pixels[place];
      return JSON.stringify(run(seen()).at(-1)) === JSON.stringify(run(pixels).at(-1));
    }"""
    assert page.evaluate(same, 26 * 28 + 14)
    assert page.evaluate(same, 14 * 28 + 26)
    assert not page.evaluate(same, 25 * 28 + 14)


# --- The stages -----------------------------------------------------------------------


def test_each_layer_stands_as_in_the_script(page):
    headings = page.locator(".stage code").all_inner_texts()
    assert headings == [
        "keras.Input(shape=INPUT_SHAPE)",
        'layers.Conv2D(32, kernel_size=(3, 3), activation="relu")',
        "layers.MaxPooling2D(pool_size=(2, 2))",
        'layers.Conv2D(64, kernel_size=(3, 3), activation="relu")',
        "layers.MaxPooling2D(pool_size=(2, 2))",
        "layers.Flatten()",
        "layers.Dropout(0.5)",
        'layers.Dense(NUM_CLASSES, activation="softmax")',
    ]
    for stage, words in {
        1: ["(26, 26, 32)", "320 "],
        3: ["18,496"],
        7: ["16,010"],
    }.items():
        text = page.locator(".stage").nth(stage).inner_text()
        assert all(word in text for word in words)


@pytest.mark.parametrize(
    "stage, shape", [(0, (28, 28, 1)), (1, (26, 26, 32)), (4, (5, 5, 64))]
)
def test_all_maps_are_painted_by_lightness(page, stage, shape):
    """The darkest point of the picture is the largest value, at its place."""
    rows, columns, maps = shape
    place = page.evaluate("(stage) => ranking(state.results[stage].values)[0]", stage)
    row, column, number = np.unravel_index(place, shape)
    darkest, width, height = page.evaluate(
        """(stage) => {
          const canvas = document.querySelectorAll(".stage")[stage].querySelector("canvas");
          const { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          const dark = Array.from({ length: width * height }, (_, i) => data[4 * i + 3] ? data[4 * i] : 999);
          return [dark.indexOf(Math.min(...dark)), width, height];
        }""",
        stage,
    )
    across = (width + 1) // (columns + 1)
    assert across * (height + 1) // (rows + 1) >= maps
    x = number % across * (columns + 1) + column
    y = number // across * (rows + 1) + row
    assert divmod(darkest, width) == (y, x)


def test_each_score_has_a_bar_from_the_middle(page):
    """Negative ones end there, positive ones begin there, and all can be seen."""
    bars = page.evaluate(
        """[...document.querySelectorAll(".rows div:nth-of-type(2n + 1) i")].map((bar) => [
          parseFloat(bar.style.left), parseFloat(bar.style.width),
          getComputedStyle(bar).backgroundColor])"""
    )
    scores = results(page, 7, "sums")
    largest = np.abs(scores).max()
    for score, (left, width, colour) in zip(scores, bars):
        assert width == pytest.approx(50 * abs(score) / largest, abs=0.01)
        assert (left if score > 0 else left + width) == pytest.approx(50, abs=0.02)
        assert colour.endswith(", 0.5)")


def test_a_legend_ends_with_the_largest_value_of_the_layer(page):
    for stage in (1, 4):
        text = page.locator(".stage").nth(stage).locator(".legend").inner_text()
        largest = re.findall(r"\d+\.\d\d", text)[-1]
        assert float(largest) == pytest.approx(results(page, stage).max(), abs=0.0051)


# --- Choosing a value -----------------------------------------------------------------


def point_at(page, stage, map=0, row=0, column=0):
    """Return the middle of a value in the window, scrolled into view."""
    canvas = maps(page, stage).locator("canvas")
    rows, columns, _, across = page.evaluate(
        """(stage) => {
          const shape = mapsShape(stage);
          const canvas = document.querySelectorAll(".stage")[stage].querySelector("canvas");
          return [...shape, (canvas.width + 1) / (shape[1] + 1)];
        }""",
        stage,
    )
    box = canvas.bounding_box()
    cell = box["width"] / (across * (columns + 1) - 1)
    x = map % across * (columns + 1) + column + 0.5
    y = map // across * (rows + 1) + row + 0.5
    page.evaluate("(y) => scrollBy(0, y - 200)", box["y"] + y * cell)
    box = canvas.bounding_box()
    return box["x"] + x * cell, box["y"] + y * cell


@pytest.mark.parametrize(
    "value", [(0, 0, 5, 7), (1, 9, 25, 3), (2, 31, 0, 12), (4, 63, 4, 2)]
)
def test_the_pointer_shows_the_value_under_it(page, value):
    page.mouse.move(*point_at(page, *value))
    found = chosen(page)
    assert (found["stage"], found["map"], found["row"], found["column"]) == value


def test_a_click_pins_a_value_and_escape_releases_it(page):
    page.mouse.click(*point_at(page, 1, 0, 4, 4))
    pinned = chosen(page)
    page.mouse.move(*point_at(page, 1, 1, 8, 8))
    assert chosen(page) == pinned
    page.keyboard.press("Escape")
    assert chosen(page) is None
    page.mouse.move(*point_at(page, 1, 2, 8, 8))
    assert chosen(page)["map"] == 2


def test_a_second_click_releases_a_value(page):
    place = point_at(page, 1, 0, 4, 4)
    page.mouse.click(*place)
    page.mouse.click(*place)
    page.mouse.move(*point_at(page, 1, 1, 8, 8))
    assert chosen(page)["map"] == 1


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
    found = page.evaluate(
        """([stage, row]) => {
          const value = { stage, map: 2, row, column: row };
          return [area(stage - 1, value), area(0, value)];
        }""",
        [stage, row],
    )
    for area, expected in zip(found, (previous, patch)):
        assert tuple(area["rows"]) == tuple(area["columns"]) == expected


def test_the_outlines_are_drawn(page):
    page.mouse.click(*point_at(page, 3, 5, 4, 4))
    paths = [
        maps(page, stage).locator("path.outline").get_attribute("d")
        for stage in range(4)
    ]
    assert paths[0] == "M8 8h8v8h-8z"
    assert paths[1] == ""
    assert paths[2].count("h3v3h-3z") == 32
    assert paths[3].count("h1v1h-1z") == 1


def test_the_inputs_of_a_score_are_all_and_not_outlined(page):
    explain(page, 7, 7, part="score")
    paths = page.locator(".stage path.outline").all()
    assert [path.get_attribute("d") for path in paths] == [""] * 5


def test_dropped_rows_and_columns_are_hatched(page):
    """A row and a column of each map before the second pooling, none after it."""
    hatched = [
        maps(page, stage).locator("> svg > path").first.get_attribute("d")
        for stage in (3, 4)
    ]
    assert hatched[0].count("M") == 2 * 64
    assert hatched[1] == ""


# --- Explanations ---------------------------------------------------------------------


def numbers(page, caption):
    """Return the numbers of the table with this caption."""
    cells = page.locator(
        "aside table", has=page.locator("caption", has_text=caption)
    ).locator("td")
    return np.array([float(text.replace("−", "-")) for text in cells.all_inner_texts()])


def explain(page, stage, map, row=0, column=0, **more):
    page.evaluate(
        "(value) => choose(value, true)",
        {"stage": stage, "map": map, "row": row, "column": column, **more},
    )


def results(page, stage, key="values"):
    shape = page.evaluate("(stage) => stages[stage].output_shape", stage)
    values = page.evaluate(
        "([stage, key]) => [...state.results[stage][key]]", [stage, key]
    )
    return np.reshape(values, shape)


def last_number(page):
    """Return the last number of the table of the sum."""
    text = page.locator("aside tr.total td").last.inner_text()
    return float(text.replace("−", "-"))


def test_a_value_of_the_first_convolution_is_explained(page):
    explain(page, 1, 3, 6, 12)
    window, kernel, products = (
        numbers(page, name) for name in ("window", "kernel", "products")
    )
    np.testing.assert_allclose(window, seen(page)[6:9, 12:15].ravel(), atol=0.0051)
    weights = page.evaluate(
        "Array.from({ length: 9 }, (_, i) => network[0].kernel[32 * i + 3])"
    )
    np.testing.assert_allclose(kernel, weights, atol=0.0051)
    np.testing.assert_allclose(
        products, seen(page)[6:9, 12:15].ravel() * weights, atol=0.0051
    )
    assert last_number(page) == pytest.approx(results(page, 1)[6, 12, 3], abs=0.00051)


def test_a_value_of_the_second_convolution_is_explained_by_its_subtotals(page):
    explain(page, 3, 48, 2, 5)
    labels = page.locator("#subtotals button").all_inner_texts()
    subtotals = np.array([float(text.replace("−", "-")) for text in labels])
    kernel = np.reshape(page.evaluate("[...network[2].kernel]"), (3, 3, 32, 64))
    window = results(page, 2)[2:5, 5:8]
    expected = np.einsum("ijc,ijc->c", window, kernel[..., 48])
    np.testing.assert_allclose(subtotals, expected, atol=0.0051)
    assert last_number(page) == pytest.approx(results(page, 3)[2, 5, 48], abs=0.00051)


@pytest.mark.parametrize("stage, map", [(1, 3), (3, 48)])
def test_products_and_bias_add_up_to_the_sum(page, stage, map):
    explain(page, stage, map, 2, 5)
    lines = page.locator("aside table").last.locator("td").all_inner_texts()
    together, bias, total, _ = [float(text.replace("−", "-")) for text in lines]
    assert total == pytest.approx(results(page, stage, "sums")[2, 5, map], abs=0.00051)
    assert together + bias == pytest.approx(total, abs=0.0016)


def test_a_subtotal_opens_into_its_nine_products(page):
    explain(page, 3, 48, 2, 5)
    page.locator("#subtotals button").nth(20).click()
    expected = results(page, 2)[2:5, 5:8, 20].ravel()
    np.testing.assert_allclose(numbers(page, "window"), expected, atol=0.0051)
    kernel = np.reshape(page.evaluate("[...network[2].kernel]"), (3, 3, 32, 64))[
        ..., 20, 48
    ]
    np.testing.assert_allclose(numbers(page, "kernel"), kernel.ravel(), atol=0.0051)


def test_a_region_shows_its_four_values_and_the_winner(page):
    explain(page, 2, 3, 4, 6)
    region = results(page, 1)[8:10, 12:14, 3].ravel()
    np.testing.assert_allclose(numbers(page, "region"), region, atol=0.0051)
    winner = page.locator("aside td.winner").inner_text()
    assert float(winner) == pytest.approx(region.max(), abs=0.0051)


@pytest.mark.parametrize("sample", [7, 1])
def test_equal_values_have_no_winner(page, sample):
    page.get_by_role("button", name=f"Sample {sample}").click()
    place = np.argwhere(results(page, 2) == 0)[0]
    explain(page, 2, *map(int, place[[2, 0, 1]]))
    assert not numbers(page, "region").any()
    assert page.locator("aside td.winner").count() == 0


@pytest.mark.parametrize("stage, side", [(1, 3), (2, 4), (3, 8), (4, 10)])
def test_the_size_of_the_patch_is_said(page, stage, side):
    explain(page, stage, 3, 2, 2)
    assert f" {side} by {side} pixels" in explanation(page)


@pytest.mark.parametrize("digit", [7, 2])
def test_the_products_of_a_score_add_up(page, digit):
    explain(page, 7, digit, part="score")
    lines = page.locator("aside tbody tr td:last-child").all_inner_texts()
    *terms, total = [float(text.replace("−", "-")) for text in lines]
    assert sum(terms) == pytest.approx(total, abs=0.0006 * len(terms))
    assert total == pytest.approx(results(page, 7, "sums")[digit], abs=0.0006)


def test_the_largest_products_of_a_score_come_first(page):
    explain(page, 7, 7, part="score")
    kernel = np.reshape(page.evaluate("[...network[6].kernel]"), (1600, 10))
    products = np.sort(results(page, 6) * kernel[:, 7])
    first = page.locator("aside tbody tr td:last-child").first.inner_text()
    assert float(first) == pytest.approx(products[-1], abs=0.0006)


def test_the_products_of_a_score_are_painted_as_tiles(page):
    """64 of 5 by 5, in 8 rows of 8 with a free line between."""
    explain(page, 7, 7, part="score")
    size = (
        "[...document.querySelectorAll('aside canvas')].map((c) => [c.width, c.height])"
    )
    assert page.evaluate(size) == [[47, 47]]


def test_products_of_either_sign_have_a_colour_of_their_own(page):
    explain(page, 7, 7, part="score")
    kernel = np.reshape(page.evaluate("[...network[6].kernel]"), (5, 5, 64, 10))
    products = np.reshape(results(page, 6), (5, 5, 64)) * kernel[..., 7]
    pixels = page.evaluate(
        "[...document.querySelector('aside canvas').getContext('2d').getImageData(0, 0, 47, 47).data]"
    )
    pixels = np.reshape(pixels, (47, 47, 4))
    colours = []
    for place in (products.argmax(), products.argmin(), np.abs(products).argmin()):
        row, column, map = np.unravel_index(place, products.shape)
        colours.append(pixels[map // 8 * 6 + row, map % 8 * 6 + column, :3])
    blue, orange, paper = colours
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    assert paper.min() > 250


def test_two_scores_can_be_compared(page):
    explain(page, 7, 7, part="score")
    page.select_option("#rival", "1")
    lines = page.locator("aside tbody tr td:last-child").all_inner_texts()
    *terms, total = [float(text.replace("−", "-")) for text in lines]
    scores = results(page, 7, "sums")
    assert total == pytest.approx(scores[7] - scores[1], abs=0.0006)
    assert sum(terms) == pytest.approx(total, abs=0.0006 * len(terms))


def heading(page):
    """Return the digits that the heading of the explanation names."""
    return re.findall(r"\d", page.inner_text("aside h2"))


def test_it_is_said_when_most_of_a_score_comes_from_small_products(page):
    kernel = np.reshape(page.evaluate("[...network[6].kernel]"), (1600, 10))
    bias = np.array(page.evaluate("[...network[6].bias]"))
    scores, found = results(page, 7, "sums"), {True: set(), False: set()}
    for digit in range(10):
        products = np.sort(results(page, 6) * kernel[:, digit])
        rest = scores[digit] - bias[digit] - products[:3].sum() - products[-3:].sum()
        explain(page, 7, digit, part="score")
        found[bool(rest / scores[digit] > 0.5)].add(page.locator("aside p").count())
    (more,), (fewer,) = found[True], found[False]
    assert more == fewer + 1


def test_why_explains_the_score_of_the_answer_against_the_second_guess(page):
    page.click("#why")
    found = chosen(page)
    assert (found["stage"], found["map"], found["part"]) == (7, 7, "score")
    scores = results(page, 7, "sums")
    second = np.argsort(scores)[-2]
    assert heading(page) == ["7", str(second)]
    assert last_number(page) == pytest.approx(scores[7] - scores[second], abs=0.0006)
    page.click("#clear")
    assert not page.locator("#why").is_visible()


def test_a_newly_chosen_score_is_compared_with_none(page):
    page.click("#why")
    explain(page, 7, 8, part="score")
    assert heading(page) == ["8"]
    assert page.input_value("#rival") == ""


def test_the_explanation_of_the_answer_follows_the_answer(page):
    page.click("#why")
    page.get_by_role("button", name="Sample 4").click()
    second = np.argsort(results(page, 7))[-2]
    assert heading(page) == ["4", str(second)]


def test_the_explanation_of_another_score_stays(page):
    explain(page, 7, 2, part="score")
    page.get_by_role("button", name="Sample 4").click()
    assert heading(page) == ["2"]


def test_a_probability_is_explained_by_powers_of_e(page):
    page.get_by_role("button", name="Sample 3").click()
    explain(page, 7, 3, part="probability")
    rows = page.locator("aside tbody tr")
    assert rows.count() == 11
    power = np.exp(results(page, 7, "sums")[3])
    factor, exponent = re.search(
        r"\s([\d.]+)\s·\s10\s*(\d+)", rows.nth(3).inner_text()
    ).groups()
    assert float(factor) * 10 ** int(exponent) == pytest.approx(power, rel=0.005)


def test_a_probability_is_the_power_divided_by_the_sum(page):
    explain(page, 7, 7, part="probability")
    cells = page.locator("aside tbody tr").nth(7).locator("td")
    assert float(cells.last.inner_text()) == pytest.approx(
        results(page, 7)[7], abs=0.00051
    )
    assert page.locator("aside tr.chosen th").inner_text() == "7"


@pytest.mark.parametrize("stage, last", [(0, 25), (1, 23), (3, 9)])
def test_a_hatched_value_says_so(page, stage, last):
    counts = []
    for row in (last, last + 1):
        explain(page, stage, 0, row, 2)
        counts.append(page.locator("aside p").count())
    assert counts[1] == counts[0] + 1


def test_a_pooling_tells_whether_values_are_left_over(page):
    explain(page, 2, 0)
    first = page.locator("aside p").count()
    explain(page, 4, 0)
    assert page.locator("aside p").count() == first + 1
    assert "11 by 11" in explanation(page)


def test_an_explanation_follows_the_drawing(page):
    explain(page, 1, 3, 6, 12)
    before = explanation(page)
    page.get_by_role("button", name="Sample 0").click()
    assert explanation(page) != before
    assert last_number(page) == pytest.approx(results(page, 1)[6, 12, 3], abs=0.00051)


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
    focus_by_tab(page, maps(page, 1))
    page.keyboard.press("ArrowLeft")
    first = chosen(page)
    place = [first[key] for key in ("row", "column", "map")]
    assert first["stage"] == 1
    assert results(page, 1)[*place] == results(page, 1).max()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert chosen(page)["column"] == first["column"] - 1
    assert page.evaluate("state.pinned")
    page.keyboard.press("Escape")
    assert chosen(page) is None


def test_arrow_keys_go_from_map_to_map(page):
    explain(page, 1, 0, 3, 25)
    maps(page, 1).focus()
    page.keyboard.press("ArrowRight")
    found = chosen(page)
    assert (found["map"], found["row"], found["column"]) == (1, 3, 0)


def test_a_button_in_the_explanation_keeps_the_focus(page):
    explain(page, 3, 48, 2, 5)
    button = page.locator("#subtotals button").nth(4)
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.key") == "channel4"


@pytest.mark.parametrize("key", ["Enter", "Escape"])
def test_the_focus_goes_from_close_to_the_picture(page, key):
    explain(page, 3, 48, 2, 5)
    page.get_by_role("button", name="Close").focus()
    page.keyboard.press(key)
    assert chosen(page) is None
    assert not page.locator("aside").is_visible()
    focused = "(element) => element === document.activeElement"
    assert maps(page, 3).evaluate(focused)


def test_what_is_said_aloud(page):
    """One polite region: the answer after a stroke, the value after an arrow key."""
    assert page.locator("[aria-live], [role=status], [role=alert], output").count() == 1
    draw(page, ONE)
    assert " 1 " in page.inner_text("#status")
    maps(page, 1).focus()
    page.keyboard.press("ArrowDown")
    value = chosen(page)
    shown = results(page, 1)[value["row"], value["column"], value["map"]]
    assert f"{shown:.3f}" in page.inner_text("#status")


@pytest.fixture
def phone(open_page):
    return open_page(390, 844, has_touch=True, is_mobile=True, device_scale_factor=3)


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
    assert answer(phone) == "1"
    assert strokes(phone) == 1


def test_a_second_finger_does_not_draw(phone):
    moves = [("touchMove", (0.5, y), (0.9, y)) for y in np.linspace(0.1, 0.9, 8)]
    touch(
        phone,
        ("touchStart", (0.5, 0.1)),
        ("touchStart", (0.5, 0.1), (0.9, 0.1)),
        *moves,
        ("touchEnd",),
    )
    assert strokes(phone) == 1
    assert answer(phone) == "1"


def test_a_tap_pins_a_value_on_a_phone(phone):
    phone.keyboard.press("Escape")
    phone.touchscreen.tap(*point_at(phone, 1, 2, 12, 12))
    assert chosen(phone)["stage"] == 1
    assert phone.evaluate("state.pinned")


def test_the_sheet_can_be_closed(phone):
    explain(phone, 3, 48, 2, 5)
    sheet = phone.locator("aside")
    assert sheet.is_visible()
    sheet.evaluate("(sheet) => sheet.scrollTo(0, 9999)")
    box = sheet.get_by_role("button", name="Close").bounding_box()
    assert box["y"] > sheet.bounding_box()["y"]  # still in sight
    sheet.get_by_role("button", name="Close").click()
    assert not sheet.is_visible()


def test_the_sheet_covers_nothing_at_the_start(phone):
    assert not phone.locator("aside").is_visible()


def test_a_button_of_the_sheet_goes_to_the_value_beside(phone):
    explain(phone, 3, 48, 2, 5)
    phone.get_by_role("button", name="Value Right").click()
    found = chosen(phone)
    assert (found["stage"], found["map"]) == (3, 48)
    assert (found["row"], found["column"]) == (2, 6)


@pytest.mark.parametrize("width", [320, 390, 700, 768, 1249, 1250, 1280, 1600])
def test_no_width_scrolls_sideways(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for value in ((3, 48, 2, 5), (1, 3, 6, 12)):
        explain(page, *value)
        assert page.evaluate(
            "document.querySelector('aside').scrollWidth <= document.querySelector('aside').clientWidth"
        )


def test_dark_mode_is_dark(open_page):
    page = open_page(color_scheme="dark")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, colour[4:-1].split(","))) < 64
    light = page.evaluate(
        "Math.max(...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 1, 1).data.slice(0, 3))"
    )
    assert light < 64


def test_nothing_moves_where_less_motion_is_wanted(open_page):
    page = open_page(reduced_motion="reduce")
    durations = page.evaluate(
        "[...document.querySelectorAll('*')].flatMap((element) => {"
        " const style = getComputedStyle(element);"
        " return [style.transitionDuration, style.animationDuration]; })"
    )
    assert set(durations) == {"0s"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_violation(open_page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(width, color_scheme=scheme)
    values = [None, (0, 0, 5, 7), (3, 48, 2, 5), (2, 3, 4, 6)]
    parts = ["score", "probability"]
    for value in [*values, *parts]:
        if value in parts:
            explain(page, 7, 7, part=value)
        elif value:
            explain(page, *value)
        found = axe.Axe().run(page).response["violations"]
        assert not [
            (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found
        ]


def test_the_written_page_of_another_network_works(browser, tmp_path):
    import keras

    import cnn_mnist

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(5, 5, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(12, activation="gelu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    path = tmp_path / "mine.html"
    path.write_text(cnn_mnist.page_of(model), encoding="utf-8")
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    assert answer(page) in set("0123456789")
    for stage in range(page.locator(".stage").count()):
        if maps(page, stage).count():
            maps(page, stage).focus()
            page.keyboard.press("ArrowRight")
            assert chosen(page)["stage"] == stage
    assert page.locator(".stage code").all_inner_texts()[1:4:2] == [
        'layers.Conv2D(5, kernel_size=(5, 5), strides=(2, 2), padding="same", activation="tanh")',
        'layers.Dense(12, activation="gelu")',
    ]
    explain(page, 1, 2, 0, 0)
    assert page.locator("aside td.outside").count() > 0
    explain(page, 3, 4)
    assert last_number(page) == pytest.approx(results(page, 3)[4], abs=0.00051)
    assert not errors
    page.close()
