"""Recognises image files by their first bytes, and finds the decoders of HEIC and AVIF when such a file is opened."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

# Suffixes of formats that not every installation decodes.
HEIF_SUFFIXES, AVIF_SUFFIXES = (".heic", ".heif"), (".avif",)
HEIF_REMEDY = "Install the decoder with `pip install 'wsss[heif]'`, or convert the file to JPEG or PNG"
AVIF_REMEDY = "Install Pillow 11.3 or newer with `pip install -U pillow`, or convert the file to JPEG or PNG"

# Formats that Pillow decodes by itself. Others are excluded: EPS, for example, would start an external program.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
_SIGNATURES = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
               (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
               (b"\xff\x4f\xff\x51", "JPEG2000"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))
_NUM_SIGNATURE_BYTES = 64


def detect_format(data: bytes) -> str:
    """Return the name of the format (as Pillow spells it) that the first bytes of an image tell, "" if none."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[6:10] == b"\0\0\0\0":
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    return _detect_container(data) if data[4:8] == b"ftyp" else ""


def _detect_container(data: bytes) -> str:
    """Return "AVIF" or "HEIF" by the brands in the first box of the file; both use the same container."""
    box = data[8:min(int.from_bytes(data[:4], "big"), _NUM_SIGNATURE_BYTES)]
    brands = {box[start:start + 4] for start in range(0, len(box), 4) if start != 4}  # 4 to 8 is a version
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else ""


def detect_file_format(path: Path) -> str:
    """Return what `detect_format` returns for a file; "" for what is no file or can't be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            return detect_format(stream.read(_NUM_SIGNATURE_BYTES))
    except OSError:
        return ""


def select_formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow may try for an image; the decoder of HEIF is registered when it is needed."""
    name = detect_format(data)
    if name == "HEIF" and _register_heif():
        return ("HEIF",)
    return ("AVIF",) if name == "AVIF" and has_decoder(".avif") else _PILLOW_FORMATS


def explain_missing_decoder(data: bytes) -> tuple[str, str] | None:
    """Return (reason, remedy) for an image whose decoder is not installed, else None."""
    name = detect_format(data)
    if name == "HEIF" and not has_decoder(".heic"):
        return "this is a HEIC photograph, which this installation cannot read", HEIF_REMEDY
    if name == "AVIF" and not has_decoder(".avif"):
        return "this is an AVIF image, which this installation cannot read", AVIF_REMEDY
    return None


@cache
def has_decoder(suffix: str) -> bool:
    """Return whether this installation decodes files of a suffix (lower case) of HEIF or AVIF; True for all others."""
    if suffix in HEIF_SUFFIXES:
        return importlib.util.find_spec("pillow_heif") is not None
    if suffix in AVIF_SUFFIXES:
        from PIL import features
        return "avif" in features.modules and bool(features.check("avif"))
    return True


@cache
def _register_heif() -> bool:
    """Register pillow-heif with Pillow; return False if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True
