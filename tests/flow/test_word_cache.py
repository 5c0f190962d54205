"""Cached word vectors have the same bits as computed ones, and a damaged cache is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.errors import BadData
from stages.flow.word_cache import CachedWordVectors

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Encoder:
    """Returns a different vector for each word, and records the words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, word: str) -> torch.Tensor:
        self.words.append(word)
        return torch.rand(8, generator=torch.Generator().manual_seed(sum(word.encode())))


def encode_words(words: list[str], identity: str = "clip",
                 device: torch.device = CPU) -> tuple[torch.Tensor, list[str]]:
    """Return the vectors of words, and the words that were not cached."""
    encoder = Encoder()
    return CachedWordVectors({"clip": identity}, device, encoder)(words), encoder.words


def test_each_word_is_encoded_once_for_all_runs(folder):
    first, encoded = encode_words(["cat", "a \u732b", "__metadata__", "cat"])
    assert encoded == ["cat", "a \u732b", "__metadata__"] and torch.equal(first[0], first[3])
    again, encoded = encode_words(["dog", "a \u732b", "cat"])
    assert encoded == ["dog"]
    assert torch.equal(again[1:], first[[1, 0]])
    assert encode_words(["dog", "cat"])[1] == []
    assert encode_words(["cat"], "another clip")[1] == ["cat"]
    assert len(list(folder.iterdir())) == 2
    assert encode_words([])[0].shape == (0, 0)


def test_a_damaged_cache_is_ignored_and_replaced(folder):
    expected = encode_words(["cat", "dog"])[0]
    path = next(folder.iterdir())
    intact = path.read_bytes()
    for position in range(0, len(intact), 7):
        damaged = bytearray(intact)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        assert torch.equal(encode_words(["cat", "dog"])[0], expected), position
    for data in (b"", intact[:-3], b"no such file"):
        path.write_bytes(data)
        assert encode_words(["cat", "dog"])[1] == ["cat", "dog"]
        assert encode_words(["cat", "dog"])[1] == [], "the file was replaced"


def test_nothing_is_cached_if_the_cache_is_off_or_not_writable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for cache in ("off", str(tmp_path / "file"), "/proc/none", "/dev/null/none", str(tmp_path / ("long" * 80))):
        monkeypatch.setenv("WSSS_CACHE", cache)
        assert encode_words(["cat"])[1] == encode_words(["cat"])[1] == ["cat"], cache
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_version_does_not_use_the_cache(folder, monkeypatch):
    encode_words(["cat"])
    monkeypatch.setattr("stages.flow.word_cache.VERSION", "99")
    assert encode_words(["cat"])[1] == ["cat"]
    monkeypatch.setattr("stages.flow.word_cache.version", lambda package: f"99 of {package}")
    assert encode_words(["cat"])[1] == ["cat"]


def test_uses_the_cache_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    encode_words(["cat"])
    assert [path.suffix for path in (tmp_path / "xdg" / "wsss").iterdir()] == [".safetensors"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    encode_words(["cat"])
    assert len(list((tmp_path / "home" / ".cache" / "wsss").iterdir())) == 1


def test_a_word_that_cannot_be_encoded_is_not_cached(folder):
    def encode(word: str) -> torch.Tensor:
        raise BadData(word)

    for _ in range(2):
        with pytest.raises(BadData):
            CachedWordVectors({}, CPU, encode)(["cat"])
    assert not folder.exists()
