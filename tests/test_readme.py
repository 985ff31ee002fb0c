"""README.md says what the program does: its tables, its commands, its numbers."""

import re
import tomllib

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


def test_the_lines_about_the_layers_are_the_model():
    """Each layer's code, what it does to the shape, and its number of parameters."""
    line = r"^`(layers\..*)` · (\(.*\)) → (\(.*\)) · ([\d,]+) parameters\\$"
    lines = re.findall(line, README, re.MULTILINE)
    source = (TOP / "cnn_mnist.py").read_text(encoding="utf-8")
    model = cnn_mnist.build_model()
    assert len(lines) == len(model.layers)
    for layer, (code, before, after, parameters) in zip(model.layers, lines):
        assert f"  {code}," in source
        assert before == str(layer.input.shape[1:])
        assert after == str(layer.output.shape[1:])
        assert number(parameters) == layer.count_params()


def test_the_sizes_of_the_networks_that_are_compared(monkeypatch):
    """Parameters and multiplications in the table with the dense networks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from cnn_vs_dense import NETWORKS, multiplications

    start = README.index("| | CNN |")
    rows = [line.strip("|").split("|") for line in README[start:].splitlines()[2:4]]
    for column, name in enumerate(("convolutional", "dense 1024", "dense 40"), start=1):
        network = NETWORKS[name]()
        assert number(rows[0][column]) == network.count_params()
        assert number(rows[1][column]) == multiplications(network)


def test_the_option_table_lists_every_option(run):
    options = re.findall(r"^  (--\S+)", run("--help").out, re.MULTILINE)
    rows = {cells[0].strip("`").split()[0]: cells for cells in table("option")}
    assert list(rows) == options
    args = cnn_mnist.parse_args([])
    for name in ("epochs", "batch_size", "seed"):
        assert rows["--" + name.replace("_", "-")][-1] == str(getattr(args, name))


def test_the_test_command_is_that_of_the_ci():
    command = "python3 -m venv .venv && .venv/bin/pip install -r tests/requirements.txt && .venv/bin/python -m pytest -n 2 tests"
    assert f"```sh\n{command}\n```" in README
    assert f"\n{command}\n" in (TOP / ".ci" / "run").read_text()


def test_the_metadata_of_the_script_are_the_requirements():
    """uv reads the block of comments at the top, pip reads requirements.txt."""
    script = (TOP / "cnn_mnist.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:# .*\n)+)# ///$", script, re.MULTILINE)
    metadata = tomllib.loads(re.sub("^# ", "", block.group(1), flags=re.MULTILINE))
    requirements = (TOP / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert metadata["dependencies"] == [line for line in requirements if line]
    oldest = re.search(r"3\.\d+", metadata["requires-python"]).group()
    assert f"{oldest} to " in README


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
