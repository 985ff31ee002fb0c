"""The mistakes of whoever changes the script end in Python's own traceback."""

import ast
import traceback
import types

import keras
import pytest
from conftest import SCRIPT


def broken(function, error):
    """The script as a module, with `raise error` at the start of the function."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if getattr(node, "name", "") == function]
    found.body.insert(0, ast.parse(f"raise {error}('a mistake')").body[0])
    module = types.ModuleType("broken")
    module.__file__ = str(SCRIPT)
    exec(compile(ast.fix_missing_locations(tree), SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


FUNCTIONS = ["load_data", "read_arrays", "check_images", "build_model", "load_model"]
FUNCTIONS += ["train", "main", "draw", "page_of", "describe", "check_outputs"]


@pytest.mark.parametrize("error", ["ValueError", "OSError"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_mistake_shows_its_line(function, error, small_file, saved, tmp_path):
    plot, page = tmp_path / "plot.png", tmp_path / "page.html"
    flags = ["--data", small_file, "--epochs", "0"]
    flags += ["--plot", str(plot), "--page", str(page)]
    if function != "build_model":
        flags += ["--load-model", str(saved)]
    with pytest.raises((ValueError, OSError)) as found:
        broken(function, error).main(flags)
    assert found.type.__name__ == error
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
