"""Read tables of spreadsheets and of Parquet, and name other binary files for what they are."""

from __future__ import annotations

import datetime
import importlib
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

from stages.data.archive_files import check_not_archive
from stages.data.table_text import Record, build_record, check_unique_columns, normalise_header
from stages.data.text_files import find_binary_kind
from stages.errors import BadData, Unavailable

_CSV_REMEDY = "Save the table as CSV or XLSX and pass that file"
# What to do with files that are no tables, by what they are called.
_REMEDIES = {
    "a spreadsheet of the old Excel format (.xls)": "Save it as XLSX or CSV and pass that file",
    "an HDF5 file, such as a shard": "Pass a table such as CSV; an index of wsss is passed to the later commands",
    "an Arrow or Feather file": "Convert it: pandas.read_feather(FILE).to_csv('tags.csv', index=False)",
    "an SQLite database": "Export its table as CSV and pass that file",
    "an image": "Pass a table of tags, and the folder of images with --images",
}
_PICKLE_REMEDY = "Load it with the program that wrote it and save the tags as CSV; wsss never runs pickles"
# Two lines of Python. Keys like 2007000032 are VOC's ids 2007_000032 as numbers, which PSA and IRN use.
_NPY_REMEDY = (
    "Convert it with these two lines of Python, classes.txt having one name per line without the background: "
    'import numpy, re; names = open("classes.txt").read().split("\\n"); labels = numpy.load("{path}", '
    "allow_pickle=True).item() ; "
    'open("labels.csv", "w").write("id,labels\\n" + "".join(re.sub("^([0-9]{{4}})([0-9]{{6}})$", "\\\\1_\\\\2", '
    'str(name)) + "," + ";".join(names[i] for i in numpy.flatnonzero(row)) + "\\n" for name, row in labels.items()))')


def read_binary_table(data: bytes, path: Path) -> tuple[list[Record], tuple[str, ...]] | None:
    """Return (line, {column: value}) of the rows of a spreadsheet or Parquet file, and notes; None for text.

    Raises BadData for other binary files, Unavailable if the package that reads the file is missing.
    """
    if data.startswith(b"PK\x03\x04"):
        return _read_spreadsheet(data, path)
    if data.startswith(b"PAR1"):
        return _read_parquet(data, path), ()
    if data.startswith(b"\x93NUMPY"):
        raise BadData("this is a NumPy array, and those of dictionaries are pickles, which can run programs",
                      _NPY_REMEDY.format(path=path), where=str(path))
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise BadData("this is a pickle", _PICKLE_REMEDY, where=str(path))
    kind = find_binary_kind(data)
    if kind:
        raise BadData(f"this is {kind}, not a table that can be read",
                      _REMEDIES.get(kind, _CSV_REMEDY).replace("FILE", str(path)), where=str(path))
    return None


def _import_reader(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"reading this file needs the package {name.split('.')[0]}",
                          'Install it with pip install "wsss[tables]", or save the table as CSV',
                          where=str(path)) from error


def _read_spreadsheet(data: bytes, path: Path) -> tuple[list[Record], tuple[str, ...]]:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise BadData(f"the archive is damaged ({error})", "Save or copy the file again", where=str(path)) from error
    if "xl/workbook.xml" not in names:
        is_sheet = any(name.startswith("Index/") for name in names) or "content.xml" in names
        if not is_sheet:
            check_not_archive(path, data)
        kind = "a spreadsheet of Numbers or OpenOffice" if is_sheet else "a document"
        raise BadData(f"this is {kind}, not a table that can be read", _CSV_REMEDY, where=str(path))
    openpyxl = _import_reader("openpyxl", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which do not concern the cells
            workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = [(sheet.title, [list(cells) for cells in sheet.iter_rows(values_only=True)])
                      for sheet in workbook.worksheets]
    except Exception as error:  # openpyxl raises errors of many kinds for damaged files
        raise BadData(f"the spreadsheet can't be read ({type(error).__name__}: {error})", "Save it again, or as CSV",
                      where=str(path)) from error
    filled = [(title, rows) for title, rows in sheets if any(any(_is_filled(cell) for cell in row) for row in rows)]
    notes = (f"Read the sheet {filled[0][0]!r} of {path.name}, the first of {len(filled)}.",) if len(filled) > 1 else ()
    return (_build_records(filled[0][1], path) if filled else []), notes


def _is_filled(cell: Any) -> bool:
    return cell is not None and bool(str(cell).strip())


def _build_records(rows: list[list[Any]], path: Path) -> list[Record]:
    header: list[str] = []
    records = []
    for line, cells in enumerate(rows, 1):
        texts = [_format_cell(cell) for cell in cells]
        if not any(texts):
            continue
        if header:
            records.append(build_record(header, (texts + [""] * len(header))[:max(len(texts), len(header))], line,
                                        path))
            continue
        header = [normalise_header(text) for text in texts]
        check_unique_columns(header, str(path))
    return records


def _format_cell(cell: Any) -> str:
    """Return a cell as it is shown: numbers without needless decimals, dates as 2024-01-31."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return "" if cell is None else str(cell).strip()


def _read_parquet(data: bytes, path: Path) -> list[Record]:
    arrow = _import_reader("pyarrow", path)
    parquet = _import_reader("pyarrow.parquet", path)
    try:
        table = parquet.read_table(arrow.BufferReader(data))
        rows = table.to_pylist()
    except Exception as error:  # pyarrow raises errors of many kinds for damaged files
        raise BadData(f"the Parquet file can't be read ({' '.join(str(error).split())[:200]})",
                      "Write or copy it again", where=str(path)) from error
    check_unique_columns(list(table.column_names), str(path))
    class_names = _read_class_labels(table.schema.metadata or {})
    return [(number, {column: _convert_value(value, class_names.get(column), path, number)
                      for column, value in row.items()}) for number, row in enumerate(rows, 1)]


def _read_class_labels(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the class names of the columns that hold class numbers, which Hugging Face's data sets record."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: names for column, feature in features.items()
                if isinstance(feature, dict)
                and isinstance(names := (feature.get("feature") or feature).get("names"), list)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _convert_value(value: Any, class_names: list[str] | None, path: Path, row: int) -> Any:
    """Return a value of a Parquet file; class numbers become names, and embedded images are rejected."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        raise BadData("the images are inside the table", "Save them as files, with their names in a column file_name",
                      where=f"{path}:{row}")
    if class_names is not None and isinstance(value, list):
        return [_convert_value(item, class_names, path, row) for item in value]
    if class_names is not None and value == -1:  # Hugging Face's number for an unknown class
        return None
    if class_names is not None and isinstance(value, int):
        if not 0 <= value < len(class_names):
            raise BadData(f"the class number {value} is none of the {len(class_names)} classes of the file",
                          "Write the table again", where=f"{path}:{row}")
        return class_names[value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
