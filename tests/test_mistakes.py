"""The mistakes of whoever changes the script end in Python's own traceback."""

import ast
import io
import traceback
import types

import keras
import pytest
from conftest import SCRIPT

FUNCTIONS = ["load_data", "read_arrays", "check_images", "build_model", "load_model"]
FUNCTIONS += ["train", "evaluate", "main", "draw", "page_of", "describe"]
FUNCTIONS += ["check_output_files"]


def broken(function):
    """The script as a module, with a mistake at the start of the function."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if getattr(node, "name", "") == function]
    # Its error is a ValueError and an OSError, which the script handles at other places.
    mistake = "import io; raise io.UnsupportedOperation('a mistake')"
    found.body[:0] = ast.parse(mistake).body
    module = types.ModuleType("broken")
    module.__file__ = str(SCRIPT)
    exec(compile(ast.fix_missing_locations(tree), SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_mistake_shows_its_line(function, small_file, saved, tmp_path):
    plot, page = tmp_path / "plot.png", tmp_path / "page.html"
    flags = ["--data", small_file, "--epochs", "0"]
    flags += ["--plot", str(plot), "--page", str(page)]
    if function != "build_model":
        flags += ["--load-model", str(saved)]
    with pytest.raises(io.UnsupportedOperation) as found:
        broken(function).main(flags)
    assert function in [frame.name for frame in traceback.extract_tb(found.tb)]
    assert not plot.exists()


def test_a_mistake_while_a_file_is_written_is_no_full_disk(
    run, small_file, tmp_path, monkeypatch
):
    def save(model, path):
        path.write_text("half of it")
        raise KeyError("a mistake")

    monkeypatch.setattr(keras.Model, "save", save)
    with pytest.raises(KeyError, match="a mistake"):
        run("--data", small_file, "--epochs", 1, "--save-model", tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []
