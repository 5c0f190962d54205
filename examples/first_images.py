"""Write a COCO instances file with only the first images of another.

    python first_images.py instances_train2014.json --count 2000 -o first.json

Keeps the `--count` images with the lowest ids that have annotations, their annotations, and all categories: the order
of the image lists that weakly supervised methods publish for COCO 2014. Needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def keep_first(instances: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the instances of the first `count` annotated images. Raises ValueError if there are fewer."""
    annotated = {annotation["image_id"] for annotation in instances["annotations"]}
    images = [image for image in instances["images"] if image["id"] in annotated]
    images.sort(key=lambda image: image["id"])
    if len(images) < count:
        raise ValueError(f"has {len(images)} images with annotations, fewer than --count {count}. Use a smaller "
                         "--count.")
    image_ids = {image["id"] for image in images[:count]}
    return {**instances, "images": images[:count],
            "annotations": [row for row in instances["annotations"] if row["image_id"] in image_ids]}


def main() -> int:
    """Write the file and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", type=Path, metavar="FILE.json")
    parser.add_argument("--count", type=int, default=2000, help="Number of images (default 2000).")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.json")
    arguments = parser.parse_args()
    try:
        instances = json.loads(arguments.instances.read_text(encoding="utf-8"))
        if not isinstance(instances, dict) or not {"images", "annotations"} <= instances.keys():
            raise ValueError("is not a COCO instances file")
        arguments.output.write_text(json.dumps(keep_first(instances, arguments.count)), encoding="utf-8")
    except FileNotFoundError as error:
        print(f"first_images.py: {error}", file=sys.stderr)
        return 66
    except (OSError, ValueError, KeyError) as error:
        print(f"first_images.py: {arguments.instances}: {error}", file=sys.stderr)
        return 65
    return 0


if __name__ == "__main__":
    sys.exit(main())
