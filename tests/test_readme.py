"""README.md says what the program does: its tables, its commands, its numbers."""

import re

from conftest import TOP

import cnn_mnist

README = (TOP / "README.md").read_text(encoding="utf-8")
BENCHMARKS = TOP / "tests" / "benchmarks"


def table(first_heading):
    """The rows of the README's table whose first column has this heading."""
    lines = README[README.index(f"| {first_heading} |") :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def number(text):
    return int(text.replace(",", ""))


def test_the_layer_table_is_the_model():
    model = cnn_mnist.build_model()
    *layers, (*_, total) = table("layer")
    assert len(layers) == len(model.layers)
    for layer, (name, shape, formula, parameters) in zip(model.layers, layers):
        assert name == f"`{type(layer).__name__}`"
        assert shape == str(layer.output.shape[1:])
        assert number(parameters) == layer.count_params()
        if formula:
            assert eval(formula.replace("·", "*")) == layer.count_params()
    assert number(total) == model.count_params()


def test_the_option_table_is_the_help(run):
    _, _, options = run("--help").out.partition("options:\n")
    options = options.partition("\n\n")[0]  # without the exit status
    found = re.findall(
        r"  (--\S+ \S+(?: \[.*?\])?) +(.*?) \(default: (.*?)\)",
        " ".join(options.split("\n")),
        re.DOTALL,
    )
    found = [
        [flag, " ".join(text.split()), " ".join(default.split())]
        for flag, text, default in found
    ]
    assert found == [
        [flag.strip("`"), text, default] for flag, text, default in table("option")
    ]
    assert len(found) == options.count("\n  --") + options.startswith("  --")


def test_the_test_command_is_that_of_the_ci():
    command = "python3 -m venv .venv && .venv/bin/pip install -r tests/requirements.txt && .venv/bin/python -m pytest tests"
    assert f"```sh\n{command}\n```" in README
    assert f"\n{command}\n" in (TOP / ".ci" / "run").read_text()


def test_every_file_that_the_readme_names_exists():
    for path in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"(tests/[\w/.]+)", README
    ):
        assert path.startswith("https://") or (TOP / path.rstrip(".")).exists(), path


def test_every_benchmark_is_described():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)
    scripts = {path.name for path in BENCHMARKS.glob("*.py")} - {"machine.py"}
    assert sorted(described) == sorted(scripts)
