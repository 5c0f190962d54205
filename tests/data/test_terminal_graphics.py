"""Images in a terminal: what is encoded can be decoded again, and the protocol is that of the terminal."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from stages.data.figures import Panel
from stages.data.terminal_graphics import (
    KITTY_CHUNK,
    choose_graphics,
    encode_kitty,
    encode_sixel,
    fit_to_columns,
    render_half_blocks,
)
from stages.data.terminal_panels import render_panels_as_text, render_pictures


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)


def decode_kitty(text: str) -> np.ndarray:
    """Decode a picture of the kitty protocol, and check the keys of its chunks."""
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in chunks) == text
    assert all(len(data) <= KITTY_CHUNK and len(data) % 4 == 0 for _, data in chunks)
    assert chunks[0][0].startswith("a=T,f=100,")
    assert [keys.removeprefix("a=T,f=100,") for keys, _ in chunks] == ["m=1"] * (len(chunks) - 1) + ["m=0"]
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks)))) as picture:
        return np.asarray(picture.convert("RGB"))


def decode_sixel(text: str) -> np.ndarray:
    """Decode sixel graphics to (H, W, 3) in percent; every pixel must be painted exactly once."""
    header = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert header
    width, height = int(header[1]), int(header[2])
    picture, painted = np.zeros((height, width, 3)), np.zeros((height, width), int)
    palette: dict[int, tuple[int, ...]] = {}
    x = top = colour = 0
    for token in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$-])", header[3]):
        if token[1]:
            palette[int(token[1])] = tuple(int(token[group]) for group in (2, 3, 4))
        elif token[5]:
            colour = int(token[5])
        elif token[9]:
            x, top = 0, top + 6 * (token[9] == "-")
        else:
            bits, repetitions = ord(token[7] or token[8]) - 63, int(token[6] or 1)
            for row in (row for row in range(6) if bits >> row & 1):
                picture[top + row, x:x + repetitions] = palette[colour]
                painted[top + row, x:x + repetitions] += 1
            x += repetitions
    assert (painted == 1).all()
    return picture


def test_kitty_graphics_hold_the_picture(image):
    assert np.array_equal(decode_kitty(encode_kitty(image)), image)
    assert encode_kitty(image).count("\x1b_G") > 1, "noise needs more than one chunk"
    assert np.array_equal(decode_kitty(encode_kitty(image[:1, :1])), image[:1, :1])


def test_sixels_hold_the_picture():
    """A picture of few colours is exact up to the percent in which sixel states colours."""
    image = np.zeros((20, 31, 3), np.uint8)
    image[3:15, 4:20], image[10:19, 15:31], image[19] = (230, 59, 41), (3, 105, 252), (255, 255, 255)
    assert np.abs(decode_sixel(encode_sixel(image)) - image / 2.55).max() <= 0.5


def test_sixels_of_many_colours_are_close(image):
    smooth = np.asarray(Image.fromarray(image).resize((7, 9)).resize((47, 61), Image.Resampling.BICUBIC))
    assert np.abs(decode_sixel(encode_sixel(smooth)) - smooth / 2.55).mean() < 4


@pytest.mark.parametrize(("environment", "expected"), [
    ({"TERM": "xterm-kitty"}, "kitty"), ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
    ({"TERM_PROGRAM": "WezTerm"}, "kitty"), ({"TERM_PROGRAM": "ghostty"}, "kitty"), ({"TERM": "foot-extra"}, "sixel"),
    ({"TERM": "mlterm"}, "sixel"), ({"TERM_PROGRAM": "contour"}, "sixel"), ({"TERM": "xterm-sixel"}, "sixel"),
    ({"TERM": "xterm-256color"}, "blocks"), ({}, "blocks"), ({"TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
    ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "blocks"), ({"TMUX": "/tmp/t", "TERM": "foot"}, "blocks")])
def test_the_protocol_is_that_of_the_terminal(environment, expected):
    assert choose_graphics(environment, is_terminal=True) == expected
    assert choose_graphics(environment, is_terminal=False) == "blocks"


def test_half_blocks_show_two_pixels_per_character():
    image = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (9, 8, 7)]], dtype=np.uint8)
    assert render_half_blocks(image, 2) == ("\x1b[38;2;255;0;0;48;2;0;0;255m\u2580"
                                            "\x1b[38;2;0;255;0;48;2;9;8;7m\u2580\x1b[0m")


def test_equal_neighbours_share_one_escape_sequence():
    text = render_half_blocks(np.full((8, 8, 3), 50, dtype=np.uint8), 8)
    assert [line.count("\x1b[38") for line in text.split("\n")] == [1] * 4
    assert all(line.count("\u2580") == 8 for line in text.split("\n"))


def test_ascii_gets_denser_with_lightness():
    image = np.repeat(np.linspace(0, 255, 10).astype(np.uint8)[None, :, None], 3, axis=2).repeat(2, axis=0)
    assert render_half_blocks(image, 10, colour=False) == " .:-=+*#%@"


@pytest.mark.parametrize("columns", [0, -3])
def test_a_width_without_columns_is_rejected(columns):
    with pytest.raises(ValueError, match="columns"):
        render_half_blocks(np.zeros((2, 2, 3), dtype=np.uint8), columns)


def test_pictures_are_shrunk_to_the_columns(image):
    assert fit_to_columns(image, 80).shape == image.shape
    assert fit_to_columns(np.zeros((500, 1000, 3), np.uint8), 40).shape == (200, 400, 3)
    assert np.array_equal(decode_kitty(render_pictures([image], "kitty", 80)), image)
    assert decode_sixel(render_pictures([image], "sixel", 80)).shape == image.shape
    assert render_pictures([image], "blocks", 20) == render_half_blocks(image, 20)


def test_panels_wrap_under_their_titles(image):
    titles = (("photograph", ""), ("a very long name of a class", "0.93"), ("\x1b[2J", ""), ("four", ""), ("five", ""))
    panels = [Panel(image, title, value) for title, value in titles]
    lines = render_panels_as_text(panels, 83).split("\n")
    title_lines = [line for line in lines if "\u2580" not in line]
    assert len(title_lines) == 2 and title_lines[1] == "five"
    assert title_lines[0].split() == ["photograph", "a", "very", "long", "na\u2026", "0.93", "?[2J", "four"]
    assert all(line.count("\u2580") in (80, 20) for line in lines if "\u2580" in line)
    assert "\u2580" not in render_panels_as_text(panels, 83, colour=False)
    assert max(map(len, render_panels_as_text(panels, 10, colour=False).split("\n"))) <= 10
