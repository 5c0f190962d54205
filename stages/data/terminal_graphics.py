"""Draw images in a terminal: half blocks, ASCII, the kitty graphics protocol, or sixel. Arrays in, text out."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from stages.data.heat_maps import compute_luma
from stages.data.images import encode_png

GRAPHICS = ("auto", "blocks", "kitty", "sixel")
ASCII_RAMP = " .:-=+*#%@"
UPPER_HALF_BLOCK = "\u2580"
KITTY_CHUNK = 4096  # characters of base64 in one escape sequence: the protocol's limit
SIXEL_HEIGHT, SIXEL_COLOURS = 6, 256
PIXELS_PER_COLUMN = 10  # of a picture drawn as pixels
_KITTY_PROGRAMS = ("wezterm", "ghostty", "kitty")
_SIXEL_TERMINALS = ("mlterm", "foot", "contour", "yaft")
_REPETITION = re.compile(r"(.)\1{3,}")


def choose_graphics(environment: Mapping[str, str], *, is_terminal: bool) -> str:
    """Choose "kitty", "sixel" or "blocks" for the terminal that the environment variables describe.

    A terminal multiplexer passes neither protocol on, and a pipe or file may be shown anywhere: both get half blocks.
    """
    term, program = environment.get("TERM", "").lower(), environment.get("TERM_PROGRAM", "").lower()
    if not is_terminal or "TMUX" in environment or term.startswith(("screen", "tmux", "dumb")):
        return "blocks"
    if "KITTY_WINDOW_ID" in environment or any(name in text for name in _KITTY_PROGRAMS for text in (term, program)):
        return "kitty"
    if term.startswith(_SIXEL_TERMINALS) or program.startswith(_SIXEL_TERMINALS) or "sixel" in term:
        return "sixel"
    return "blocks"


def fit_to_columns(image: np.ndarray, columns: int) -> np.ndarray:
    """Shrink an image (H, W, 3) that is wider than `columns` characters, for a terminal that draws pixels."""
    width = columns * PIXELS_PER_COLUMN
    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.LANCZOS))


def encode_kitty(image: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8 in the kitty graphics protocol: PNG as base64, in chunks."""
    data = base64.standard_b64encode(encode_png(image)).decode("ascii")
    chunks = [data[start:start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    keys = ["a=T,f=100,", *[""] * (len(chunks) - 1)]
    return "".join(f"\x1b_G{key}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
                   for index, (key, chunk) in enumerate(zip(keys, chunks, strict=True)))


def encode_sixel(image: np.ndarray) -> str:
    """Encode an image (H, W, 3) uint8 as sixel graphics of at most 256 colours."""
    height, width = image.shape[:2]
    quantised = Image.fromarray(np.ascontiguousarray(image)).quantize(SIXEL_COLOURS)
    palette = np.array(quantised.getpalette() or [], dtype=np.float64).reshape(-1, 3)
    indices = np.asarray(quantised)
    colours = "".join(f"#{index};2;{';'.join(str(round(value / 2.55)) for value in palette[index].tolist())}"
                      for index in np.unique(indices).tolist())
    bands = "-".join(_encode_band(indices[top:top + SIXEL_HEIGHT]) for top in range(0, height, SIXEL_HEIGHT))
    return f'\x1bPq"1;1;{width};{height}{colours}{bands}\x1b\\'


def _encode_band(indices: np.ndarray) -> str:
    """Encode up to six rows of palette indices: one pass per colour, separated by carriage returns."""
    weights = (1 << np.arange(len(indices)))[:, None]
    passes = []
    for index in np.unique(indices).tolist():
        columns = ((indices == index) * weights).sum(axis=0) + 63
        text = columns.astype(np.uint8).tobytes().decode("ascii")
        passes.append(f"#{index}{_REPETITION.sub(_shorten_repetition, text)}")
    return "$".join(passes)


def _shorten_repetition(match: re.Match[str]) -> str:
    return f"!{len(match[0])}{match[1]}"


def render_half_blocks(image: np.ndarray, columns: int, *, colour: bool = True) -> str:
    """Render the image (H, W, 3) as lines of text, `columns` characters wide, for characters twice as high as wide.

    With `colour` each character is an upper half block whose two halves show one pixel each, by 24-bit ANSI sequences;
    without, it is an ASCII character for the lightness of both pixels. Raises ValueError if `columns` < 1.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}, but must be positive")
    height, width = image.shape[:2]
    num_lines = max(1, round(columns * height / width / 2))
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((columns, 2 * num_lines), Image.Resampling.BOX)
    pixels = np.asarray(resized)
    return "\n".join(_render_ansi_lines(pixels) if colour else _render_ascii_lines(pixels))


def _render_ansi_lines(pixels: np.ndarray) -> Iterator[str]:
    for upper_row, lower_row in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line, previous = [], None
        for pair in zip(upper_row, lower_row, strict=True):
            if pair != previous:
                upper, lower = (";".join(map(str, pixel)) for pixel in pair)
                line.append(f"\x1b[38;2;{upper};48;2;{lower}m")
            line.append(UPPER_HALF_BLOCK)
            previous = pair
        yield "".join(line) + "\x1b[0m"


def _render_ascii_lines(pixels: np.ndarray) -> list[str]:
    luma = compute_luma(pixels)
    steps = np.rint((luma[::2] + luma[1::2]) / 510 * (len(ASCII_RAMP) - 1)).astype(int)
    return ["".join(ASCII_RAMP[step] for step in row) for row in steps]
