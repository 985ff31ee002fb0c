"""The mistakes of whoever changes the script end in Python's own traceback."""

import ast
import traceback
import types

import pytest
from conftest import SCRIPT
from PIL import Image, ImageDraw


def broken(function, error):
    """The script as a module, with `raise error` at the start of the function."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if getattr(node, "name", "") == function]
    found.body.insert(0, ast.parse(f"raise {error}('a mistake')").body[0])
    module = types.ModuleType("broken")
    module.__file__ = str(SCRIPT)
    exec(compile(ast.fix_missing_locations(tree), SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


@pytest.mark.parametrize("error", ["ValueError", "OSError", "KeyError"])
@pytest.mark.parametrize(
    "function",
    [
        "load_data",
        "read_arrays",
        "check_arrays",
        "build_model",
        "load_model",
        "check_model",
        "train",
        "main",
        "draw",
        "open_grey",
        "find_digit",
        "form_digit",
        "find_ink",
    ],
)
def test_a_mistake_shows_its_line(function, error, small_file, saved, tmp_path, capsys):
    image, plot = tmp_path / "one.png", tmp_path / "plot.png"
    page = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(page).line((30, 10, 30, 50), 0, 7)
    page.save(image)
    flags = ["--data", small_file, "--epochs", "0"]
    flags += ["--predict", str(image), "--plot", str(plot)]
    if function != "build_model":
        flags += ["--load-model", str(saved)]
    with pytest.raises((ValueError, OSError, KeyError)) as found:
        broken(function, error).main(flags)
    assert found.type.__name__ == error
    assert function in [frame.name for frame in traceback.extract_tb(found.tb)]
    out = capsys.readouterr().out
    assert (f"{image}: " in out) == function.startswith("draw")
    assert not plot.exists()
