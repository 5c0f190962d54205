"""`setup`: data of other people, from an archive that the user brings."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

from stages.errors import BadData, CannotCreate, MissingInput
from stages.flow.execution import Output, Report, Summary
from stages.shards.disk import make_folder, replace_file

_TAGGER = "averaged_perceptron_tagger_eng"
_FILES = tuple(f"{_TAGGER}.{part}.json" for part in ("weights", "tagdict", "classes"))


def run_nltk(archive: str, output: Output, report: Report) -> Summary:
    """Put NLTK's tagger from its zip archive below a folder in which NLTK looks for data.

    Raises MissingInput, BadData for another archive, CannotCreate where another tagger is (--force replaces it).
    """
    folder = (output.path if str(output.path) not in ("", ".") else _data_folder()) / "taggers" / _TAGGER
    files = _read(Path(archive))
    there = {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
    if there == files:
        report.info(f"{folder} is up to date")
        report.print_path(folder)
        return Summary(num_up_to_date=1)
    if there and not output.force:
        raise CannotCreate("another tagger is there", "give another -o, or --force to replace it", where=str(folder))
    if output.dry_run:
        report.info(f"Would write {len(files)} files to {folder}")
        return Summary()
    make_folder(folder)
    for name, data in files.items():
        replace_file(folder / name, data)
    report.print_path(folder)
    return Summary(num_written=1)


def _data_folder() -> Path:
    """Return the first folder of $NLTK_DATA, else that beside the packages of this Python: NLTK looks into both."""
    given = os.environ.get("NLTK_DATA", "").split(os.pathsep)[0]
    return Path(given) if given else Path(sys.prefix) / "nltk_data"


def _read(archive: Path) -> dict[str, bytes]:
    """Return the tagger's files by name, each of which is JSON."""
    if not archive.is_file():
        raise MissingInput("no such file", f"bring {_TAGGER}.zip of NLTK's data", where=str(archive))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(name).name: name for name in opened.namelist()}
            lost = next((name for name in _FILES if name not in members), None)
            if lost is not None:
                raise BadData(f"holds no {lost}", f"bring {_TAGGER}.zip: NLTK 3.9 reads JSON, not the older pickle",
                              where=str(archive))
            files = {name: opened.read(members[name]) for name in _FILES}
        for data in files.values():
            json.loads(data)
    except BadData:
        raise
    # Of a damaged archive the directory, a header, the packing or the text may be wrong, and each raises its own.
    except Exception as error:
        raise BadData(f"is no archive that can be read ({error})", "fetch or copy it again",
                      where=str(archive)) from None
    return files
