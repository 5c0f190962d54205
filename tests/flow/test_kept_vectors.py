"""Vectors of words between runs: the same bits whatever was kept, and no fault of a file that spoils them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.errors import BadData
from stages.flow.kept_vectors import KeptVectors

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WSSS_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Encoder:
    """Gives each word a vector of its own, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, word: str) -> torch.Tensor:
        self.asked.append(word)
        return torch.rand(8, generator=torch.Generator().manual_seed(sum(word.encode())))


def asked(words: list[str], identity: str = "clip", device: torch.device = CPU) -> tuple[torch.Tensor, list[str]]:
    """Return the vectors of words, and those that were encoded for it."""
    encoder = Encoder()
    return KeptVectors({"clip": identity}, device, encoder)(words), encoder.asked


def test_each_word_is_encoded_once_for_all_runs(folder):
    first, encoded = asked(["cat", "a \u732b", "__metadata__", "cat"])
    assert encoded == ["cat", "a \u732b", "__metadata__"] and torch.equal(first[0], first[3])
    again, encoded = asked(["dog", "a \u732b", "cat"])
    assert encoded == ["dog"]
    assert torch.equal(again[1:], first[[1, 0]])
    assert asked(["dog", "cat"])[1] == []
    assert asked(["cat"], "another clip")[1] == ["cat"]
    assert len(list(folder.iterdir())) == 2
    assert asked([])[0].shape == (0, 0)


def test_any_damage_is_as_if_nothing_were_there(folder):
    wanted = asked(["cat", "dog"])[0]
    path = next(folder.iterdir())
    sound = path.read_bytes()
    for place in range(0, len(sound), 7):
        spoiled = bytearray(sound)
        spoiled[place] ^= 0x10
        path.write_bytes(spoiled)
        assert torch.equal(asked(["cat", "dog"])[0], wanted), place
    for data in (b"", sound[:-3], b"no such file"):
        path.write_bytes(data)
        assert asked(["cat", "dog"])[1] == ["cat", "dog"]
        assert asked(["cat", "dog"])[1] == [], "it is whole again"


def test_where_nothing_can_be_kept_nothing_is(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for told in ("off", str(tmp_path / "file"), "/proc/none", "/dev/null/none", str(tmp_path / ("long" * 80))):
        monkeypatch.setenv("WSSS_CACHE", told)
        assert asked(["cat"])[1] == asked(["cat"])[1] == ["cat"], told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_version_computes_anew(folder, monkeypatch):
    asked(["cat"])
    monkeypatch.setattr("stages.flow.kept_vectors.VERSION", "99")
    assert asked(["cat"])[1] == ["cat"]
    monkeypatch.setattr("stages.flow.kept_vectors.version", lambda package: f"99 of {package}")
    assert asked(["cat"])[1] == ["cat"]


def test_the_folder_is_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    asked(["cat"])
    assert [path.suffix for path in (tmp_path / "xdg" / "wsss").iterdir()] == [".safetensors"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked(["cat"])
    assert len(list((tmp_path / "home" / ".cache" / "wsss").iterdir())) == 1


def test_a_word_that_can_not_be_encoded_says_so_each_time(folder):
    def encode(word: str) -> torch.Tensor:
        raise BadData(word)

    for _ in range(2):
        with pytest.raises(BadData):
            KeptVectors({}, CPU, encode)(["cat"])
    assert not folder.exists()
