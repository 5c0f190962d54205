"""Compare the tags of images with the classes in their ground-truth masks, and say what to do about differences."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from stages.data.mask_colours import format_colour
from stages.data.mask_counts import MaskCounts, describe_examples, format_contradictions, select_comparable
from stages.data.mask_values import IGNORED, MaskValues
from stages.data.masks import list_voc_colours
from stages.errors import BadData
from stages.index.value_mapping import IGNORE, Mapped, find_colour_mapping, find_mapping

# Below this number of images, a share of 5 % says little.
_SMALL_SET, _MAX_SHARE, _MIN_IMAGES = 20, 0.05, 3
_SYSTEMATIC_SHARE = 0.9  # of the images with one and the same value in the mask
_MAX_LISTED = 8
_MANY_VALUES = 24  # distinct values beyond the classes in one mask: edges were smoothed


def has_too_many(num_contradictions: int, num_images: int) -> bool:
    """Return whether so many of the images with tags and a mask contradict each other that an input must be wrong."""
    if num_images < _SMALL_SET:
        return 2 * num_contradictions > num_images
    return num_contradictions >= _MIN_IMAGES and num_contradictions > _MAX_SHARE * num_images


def compare_masks(images: Sequence[MaskCounts], classes: Sequence[str], values: MaskValues, *, where: str,
                  is_allowed: bool) -> tuple[str, ...]:
    """Return sentences about masks that contradict their tags, and about tagged classes that no mask has.

    `values` are the mapping that was applied to the masks. Raises BadData with examples and remedies if there are
    too many contradictions and not `is_allowed`.
    """
    compared = [image for image in select_comparable(images) if not image.is_unknown]
    compared += [image for image in images if image.is_unknown]
    wrong = [image for image in compared if image.is_contradiction]
    if _must_stop(compared, wrong) and not is_allowed:
        # Images that contradict their tags say more than those whose values are no class.
        examples = describe_examples(sorted(wrong, key=lambda image: image.is_unknown), classes)
        raise BadData(f"{_describe_wrong(wrong, len(compared), len(classes) - 1, values)} ({examples})",
                      suggest_remedy(compared, wrong, classes, values), where=where)
    # Those with values that are no class are reported as rejected images.
    known = [image for image in wrong if not image.is_unknown]
    num_known = sum(not image.is_unknown for image in compared)
    sentences = (format_contradictions(len(known), num_known, describe_examples(known, classes, 1)),) if known else ()
    return (*sentences, *_describe_palette(images, wrong, values), *_describe_absent(compared, classes))


def _must_stop(compared: Sequence[MaskCounts], wrong: Sequence[MaskCounts]) -> bool:
    """Return whether the masks can't be those of these tags."""
    if len(wrong) >= _MIN_IMAGES and _suggest_for_one_value(compared):
        return True
    if all(image.is_empty and not image.ignored for image in wrong):
        # Objects may not have been drawn in some of the images, but hardly in none.
        return len(wrong) >= _MIN_IMAGES and len(wrong) == sum(bool(image.labels) for image in compared)
    return has_too_many(len(wrong), len(compared))


def _describe_wrong(wrong: Sequence[MaskCounts], num_compared: int, num_classes: int, values: MaskValues) -> str:
    unknown = [image for image in wrong if image.is_unknown]
    voc_colours = list_voc_colours()  # they have a class id, unless other colours are given
    known_colours = {format_colour(colour) for colour in values.colours} or {*voc_colours[:num_classes + 1],
                                                                             voc_colours[IGNORE]}
    counts = Counter(value for image in unknown for value in image.pixels
                     if (value not in known_colours if isinstance(value, str) else value > num_classes))
    listed = ", ".join(str(value) for value, _ in counts.most_common(_MAX_LISTED))
    values = f"{listed}{', ...' if len(counts) > _MAX_LISTED else ''}"
    start = f"the masks of {len(wrong)} of {num_compared} images"
    if len(unknown) == len(wrong):
        return f"{start} have values that are no class: {values}; the class ids are 0..{num_classes}"
    also = f"; those of {len(unknown)} have values that are no class: {values}" if unknown else ""
    return f"{start} contradict their tags{also}"


def suggest_remedy(images: Sequence[MaskCounts], wrong: Sequence[MaskCounts], classes: Sequence[str],
                   values: MaskValues) -> str:
    """Return what probably causes the contradictions, and what to do."""
    accept = "accept them with --allow-contradictions"
    order = f"class ids follow the order of the classes: {_list_ids(classes)}"
    if values:
        return f"Correct --mask-values (now {values.text}; {order}), or {accept}"
    suggestion = (_suggest_for_smooth_masks(wrong, len(classes) - 1) or _suggest_for_one_value(images)
                  or _suggest_mapping(images, wrong, classes) or _suggest_for_instances(images))
    if suggestion:
        return f"{suggestion}, or {accept}"
    if all(image.is_empty for image in wrong):
        return f"The objects may be stored in another way: look at a mask, and save class ids ({order}), or {accept}"
    return f"Check the tags, the masks and the order of the classes ({order}), or {accept}"


def _suggest_for_instances(images: Sequence[MaskCounts]) -> str:
    """Return a remedy if almost all masks have the value 1, although no class is tagged that often."""
    tagged = [image for image in images if image.labels]
    num_needed = _SYSTEMATIC_SHARE * len(tagged)
    tags = Counter(label for image in tagged for label in image.labels or ())
    if not tags or sum(1 in image.classes for image in tagged) < num_needed or tags.most_common(1)[0][1] >= num_needed:
        return ""
    return ("Almost all masks have the value 1, whatever their tags: they may number the objects (instances) instead "
            "of the classes. Use the masks of classes (of VOC: SegmentationClass, not SegmentationObject)")


def _suggest_mapping(images: Sequence[MaskCounts], wrong: Sequence[MaskCounts], classes: Sequence[str]) -> str:
    """Return a remedy with --mask-values if another meaning of values or colours explains most images, else ""."""
    values, colours = (find(images, len(classes) - 1) for find in (find_mapping, find_colour_mapping))
    shifted = next((image for image in wrong if _has_shifted_voc_colours(image)), None)
    if colours.mapping and (shifted or colours.num_explained > values.num_explained):
        start = _describe_shifted_colours(shifted) if shifted else "The colours of the palettes explain the tags."
        return f"{start} Run again with {_format_option(colours.mapping, classes)}"
    if not values.mapping:
        return ""
    ignored = "255 is the ignore index, so objects with this value are not seen. " if IGNORE in values.mapping else ""
    return (f"{ignored}{_describe_mapping(values.mapping)} {_format_option(values.mapping, classes)}"
            f"{_list_other_colours(images, values.mapping)}")


def _describe_shifted_colours(image: MaskCounts) -> str:
    names = list_voc_colours()
    index, name = next(pair for pair in image.palette_colours.items() if names[pair[0]] != pair[1])
    return (f"The palettes of these masks have VOC's colours at other indices (index {index} has the colour of id "
            f"{names.index(name)}), and indices are read.")


def _list_other_colours(images: Sequence[MaskCounts], mapping: Mapped) -> str:
    """Return a clause that names the colours of the masks that a mapping lacks, "" if there are none."""
    counts = Counter(value for image in images for value in image.pixels
                     if isinstance(value, str) and value not in mapping)
    if not counts:
        return ""
    listed = ", ".join(str(value) for value, _ in counts.most_common(_MAX_LISTED))
    more = ", ..." if len(counts) > _MAX_LISTED else ""
    return f" after adding what {listed}{more} mean{'s' if len(counts) == 1 else ''} (a class or ignore)"


def _has_shifted_voc_colours(image: MaskCounts) -> bool:
    """Return whether the palette has VOC's colours for all indices in use, but not at VOC's indices."""
    names, used = list_voc_colours(), image.palette_colours
    return set(used.values()) <= set(names) and any(names[index] != name for index, name in used.items())


def _suggest_for_smooth_masks(wrong: Sequence[MaskCounts], num_classes: int) -> str:
    """Return a remedy if masks have far more values than there are classes."""
    smooth = [image for image in wrong if image.is_unknown and len(image.pixels) > num_classes + _MANY_VALUES]
    if 2 * len(smooth) <= len(wrong):
        return ""
    return ("These masks have dozens of different values, as smooth (anti-aliased) edges, resizing or a photograph "
            "make them: export them without smoothing, and resize with nearest neighbour")


def _suggest_for_one_value(images: Sequence[MaskCounts]) -> str:
    """Return a remedy if masks have one value besides background although their tags differ."""
    tagged = [image for image in images if image.labels]
    num_tags = len({label for image in tagged for label in image.labels or ()})
    # A palette or grey file has the value 0 for background, a colour file black.
    contents = Counter(frozenset(image.classes - {"#000000"}) or frozenset([IGNORE] if image.ignored else [])
                       for image in tagged)
    values, num_images = contents.most_common(1)[0] if contents else (frozenset(), 0)
    if num_tags < 2 or len(values) != 1 or num_images < _SYSTEMATIC_SHARE * len(tagged):
        return ""
    value = next(iter(values))
    meaning = " (the ignore index)" if value == IGNORE else ""
    return (f"All masks have the single value {value}{meaning} for objects of every class, so they do not say which "
            "class it is: save each object with its class id")


def _describe_mapping(mapping: Mapped) -> str:
    offsets = {class_id - value for value, class_id in mapping.items() if isinstance(value, int) and class_id}
    if len(offsets) == 1 and len(mapping) > 1 and abs(offset := offsets.pop()) < 3 and IGNORE not in mapping:
        return f"The ids in the masks are {abs(offset)} too {'high' if offset < 0 else 'low'}. Run again with"
    if any(isinstance(value, str) for value in mapping):
        return "The tags suggest what the colours mean. Check it, and run again with"
    return "The tags suggest another meaning of the values. Check it, and run again with"


def _format_option(mapping: Mapped, classes: Sequence[str]) -> str:
    """Return the option that applies a mapping, quoted for a shell."""
    names = {class_id: name if class_id and not set(name) & set(",=") and not name.isdecimal() else str(class_id)
             for class_id, name in enumerate(classes)}
    names.update({0: "background", IGNORED: "ignore"})
    pairs = ",".join(f"{value}={names[class_id]}" for value, class_id in mapping.items())
    return f"--mask-values {shlex.quote(pairs)}"


def _list_ids(classes: Sequence[str]) -> str:
    more = ", ..." if len(classes) > 6 else ""
    return ", ".join(f"{class_id} {name}" for class_id, name in list(enumerate(classes))[1:6]) + more


def _describe_palette(images: Sequence[MaskCounts], wrong: Sequence[MaskCounts], values: MaskValues) -> tuple[str, ...]:
    """Return a sentence if palettes have VOC's colours at other indices, and no tags say which of both is meant."""
    shifted = [image for image in images if image.labels is None and _has_shifted_voc_colours(image)]
    if wrong or values or 2 * len(shifted) <= len(images):
        return ()
    return (f"{_describe_shifted_colours(shifted[0])} To read the colours, give --mask-values '#RRGGBB=NAME,...'.",)


def _describe_absent(images: Sequence[MaskCounts], classes: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence about classes that are tags of images with masks, but occur in no mask."""
    tags = Counter(label for image in images if not image.is_unknown for label in image.labels or ())
    present = {value for image in images for value in image.classes}
    absent = [(classes[label], count) for label, count in sorted(tags.items()) if label not in present]
    if not absent:
        return ()
    names = ", ".join(f"{name} ({count} image{'s' if count > 1 else ''})" for name, count in absent[:_MAX_LISTED])
    more = f" and {len(absent) - _MAX_LISTED} more" if len(absent) > _MAX_LISTED else ""
    return (f"No mask shows {names}{more}, although {'it is' if len(absent) == 1 else 'they are'} tagged.",)
