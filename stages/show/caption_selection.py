"""Select the captions to draw: one per image, with as many nouns as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from stages.data.image_source import ImageSource
from stages.data.nouns import NounSelector
from stages.errors import BadData, MissingInput
from stages.show.image_selection import pick_evenly

T = TypeVar("T")
Captions = dict[str, tuple[str, tuple[str, ...]]]


def select_captions(ids: Sequence[str], count: int, sources: Mapping[str, ImageSource], selector: NounSelector,
                    max_nouns: int, where: str) -> Captions:
    """Select per image the caption with the most nouns, and up to `max_nouns` of them in the order of the caption.

    Without `ids`, `count` images are chosen by `find_next_of_spread_positions`. Raises MissingInput for an id without
    such a caption, BadData if no image has one; `where` is the path of the index.
    """
    def select_caption(item_id: str) -> tuple[str, tuple[str, ...]] | None:
        texts = _read_captions(sources.get(item_id), item_id)
        candidates = [(text, selector.select_nouns(item_id, text)) for text in texts]
        caption, nouns = max(candidates, key=lambda candidate: min(len(candidate[1]), max_nouns), default=("", ()))
        return (caption, _sort_by_position(nouns, caption.lower())[:max_nouns]) if nouns else None

    if not ids:
        captions = dict(find_next_of_spread_positions(list(sources), count, select_caption))
        if not captions:
            raise BadData("no image has a caption with a noun",
                          "Index a table with a column `caption`, or give `wsss index coco` a captions file",
                          where=where)
        return captions
    captions = {}
    for item_id in ids:
        caption = select_caption(item_id)
        if caption is None:
            raise MissingInput(f"there is no image {item_id} with a caption that has a noun",
                               "See `wsss info` for the ids of the images", where=where)
        captions[item_id] = caption
    return captions


def find_next_of_spread_positions(ids: list[str], count: int,
                                  select: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """Yield (id, select(id)) for the next id from each of `count` evenly spread positions for which it is not None.

    No id is examined twice, since `select` may be slow.
    """
    examined = set()
    for position in pick_evenly(range(len(ids)), count):
        if len(examined) == len(ids):
            return
        for item_id in (ids[(position + step) % len(ids)] for step in range(len(ids))):
            if item_id not in examined:
                examined.add(item_id)
                selection = select(item_id)
                if selection is not None:
                    yield item_id, selection
                    break


def _read_captions(source: ImageSource | None, item_id: str) -> list[str]:
    if source is None or item_id in source.index.errors:
        return []
    captions = source.index.read_item_dataset(item_id, "captions")
    return [] if captions is None else [caption.decode().strip() for caption in captions.tolist()]


def _sort_by_position(nouns: Sequence[str], caption: str) -> tuple[str, ...]:
    return tuple(sorted(nouns, key=lambda noun: (caption.find(noun), noun)))
