"""`setup`: install data files of other projects from an archive that the user has downloaded."""

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
    """Install NLTK's tagger from its zip archive into a folder that NLTK searches for data.

    Raises MissingInput, BadData if it is another archive, CannotCreate if another tagger is installed (--force replaces
    it).
    """
    folder = (output.path if str(output.path) not in ("", ".") else _find_data_folder()) / "taggers" / _TAGGER
    files = _read_archive(Path(archive))
    installed = {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
    if installed == files:
        report.info(f"{folder} is up to date")
        report.print_path(folder)
        return Summary(num_up_to_date=1)
    if installed and not output.force:
        raise CannotCreate("another tagger is installed here", "Use --force to replace it, or choose another -o",
                           where=str(folder))
    if output.dry_run:
        report.info(f"Would write {len(files)} files to {folder}")
        return Summary()
    make_folder(folder)
    for name, data in files.items():
        replace_file(folder / name, data)
    report.print_path(folder)
    return Summary(num_written=1)


def _find_data_folder() -> Path:
    """Return the first folder of $NLTK_DATA, else nltk_data next to the packages of this Python; NLTK searches both."""
    folder = os.environ.get("NLTK_DATA", "").split(os.pathsep)[0]
    return Path(folder) if folder else Path(sys.prefix) / "nltk_data"


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the tagger's JSON files by name."""
    if not archive.is_file():
        raise MissingInput("no such file", f"Download {_TAGGER}.zip of NLTK's data and pass it as --from",
                           where=str(archive))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(name).name: name for name in opened.namelist()}
            missing = next((name for name in _FILES if name not in members), None)
            if missing is not None:
                raise BadData(f"does not contain {missing}",
                              f"Use {_TAGGER}.zip, because NLTK 3.9 reads JSON and not the older pickle",
                              where=str(archive))
            files = {name: opened.read(members[name]) for name in _FILES}
        for data in files.values():
            json.loads(data)
    except BadData:
        raise
    # The directory, a header, the packing or the text of an archive can be damaged; each raises its own exception.
    except Exception as error:
        raise BadData(f"is not a readable zip archive ({error})", "Download or copy it again",
                      where=str(archive)) from None
    return files
