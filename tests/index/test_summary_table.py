"""The table at the end of `wsss index`."""

from __future__ import annotations

from stages.index.summary_table import format_summary


def build_summary(num_classes: int, **more) -> dict:
    return {"images": 9, "failed": 0, "untagged": 0, "without_class": 0,
            "class_images": [0, *range(1, num_classes + 1)], **more}


def test_classes_with_masks():
    summary = build_summary(2, masks=8, class_pixels=[600, 250, 50], ignored_pixels=100, without_class=1, untagged=2,
                            sizes={"smallest": [1, 2], "median": [3, 4], "largest": [5, 6]})
    assert format_summary(summary, ("background", "cat", "hot dog"), {}, ("2 files are not in tags.csv.",)) == [
        "Summary of the index: 9 images, 2 classes, 8 masks",
        "  class       id  images  mask pixels",
        "  background   0       -       60.0 %",
        "  cat          1       1       25.0 %",
        "  hot dog      2       2        5.0 %",
        "  ignored      -       -       10.0 %",
        "  without tags (unknown): 2 images",
        "  known to show no class: 1 image",
        "  without mask: 1 image",
        "  size (height x width): smallest 1x2, median 3x4, largest 5x6",
        "  skipped: 2 files are not in tags.csv."]


def test_of_many_classes_only_the_most_and_least_frequent_are_shown():
    names = ("background", *(f"class {number}" for number in range(1, 31)))
    lines = format_summary(build_summary(30), names, {str(n): f"{n}.jpg: damaged" for n in range(5)}, ())
    classes = [line.split()[1] for line in lines if line.startswith("  class ")]
    assert classes == ["id", *map(str, range(30, 20, -1)), *map(str, range(10, 0, -1))]
    assert lines[12] == "  ... and 10 more"
    assert lines[-5:] == ["  failed: 5 images", "    0.jpg: damaged", "    1.jpg: damaged", "    2.jpg: damaged",
                          "    ... and 2 more (`wsss info` lists them)"]
    masked = format_summary(build_summary(300, masks=1, class_pixels=[1] * 301, ignored_pixels=1),
                            ("background", *map(str, range(300))), {str(n): "x" for n in range(9)}, ("a", "b", "c"))
    assert len(masked) < 40


def test_without_classes_there_is_no_table_of_classes():
    assert format_summary(build_summary(0), ("background",), {}, ()) == ["Summary of the index: 9 images, 0 classes"]
