"""Cut a COCO instances file to its first images.

    python first_images.py instances_train2014.json --count 2000 -o first.json

Keeps the `--count` images of the lowest ids among those that have an annotation, with their annotations, and all
categories: the order of the lists of images that weakly supervised methods publish for COCO 2014. Needs the standard
library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def keep_first(content: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the content with its first `count` annotated images. Raises ValueError where there are fewer."""
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    images = sorted((image for image in content["images"] if image["id"] in annotated), key=lambda image: image["id"])
    if len(images) < count:
        raise ValueError(f"has {len(images)} images with annotations, fewer than --count {count}")
    kept = {image["id"] for image in images[:count]}
    return {**content, "images": images[:count],
            "annotations": [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]}


def main() -> int:
    """Parse the command line, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", type=Path, metavar="FILE.json")
    parser.add_argument("--count", type=int, default=2000, help="how many images (2000)")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.json")
    arguments = parser.parse_args()
    try:
        content = json.loads(arguments.instances.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
            raise ValueError("is no COCO instances file")
        arguments.output.write_text(json.dumps(keep_first(content, arguments.count)), encoding="utf-8")
    except FileNotFoundError as error:
        print(f"first_images.py: {error}", file=sys.stderr)
        return 66
    except (OSError, ValueError, KeyError) as error:
        print(f"first_images.py: {arguments.instances}: {error}", file=sys.stderr)
        return 65
    return 0


if __name__ == "__main__":
    sys.exit(main())
