"""Who may import whom, read from the sources: each rule takes a project and tells `file:line: what`.

A project is a mapping of relative paths to sources, so that a test can plant a violation.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

Project = Mapping[str, str]

# Folders of stages/ that serve several stages; every other folder with a config.py or a stage.py is a stage.
LIBRARY = {"shards", "flow", "data", "nets", "training", "kernels"}
# Modules of the flow that import only the standard library: the command line may have them at once.
LIGHT = {"stages.flow.execution", "stages.flow.stream"}
ARITHMETIC = {"torch", "torchvision", "timm", "open_clip", "numpy", "scipy", "h5py", "sklearn", "PIL", "pydensecrf",
              "math", "cmath", "statistics", "decimal", "fractions", "random"}
NOT_METHODS = {"__init__.py", "config.py", "stage.py", "workers.py", "registry.py"}
NAMES_OF_NOTHING = {"utils", "util", "helpers", "helper", "misc"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 80


@dataclass(frozen=True)
class Import:
    """One imported name: `module` and `target` (the module, or the name in it), and where it stands."""

    module: str
    target: str
    place: str
    late: bool

    def within(self, *packages: str) -> bool:
        """Tell whether the target is one of `packages`, or below one."""
        return any(self.target == package or self.target.startswith(package + ".") for package in packages)

    @property
    def top(self) -> str:
        return self.target.split(".")[0]


def read_project(root: Path, folders: tuple[str, ...] = ("stages", "wsss_cli")) -> dict[str, str]:
    """Return the sources below `folders` of `root`."""
    paths = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def imports(path: str, source: str) -> list[Import]:
    """Return every import of a file; `late` where it runs only when a function does (or never: TYPE_CHECKING)."""
    found: list[Import] = []
    _collect(ast.parse(source, path), path, False, found)
    return found


def _collect(node: ast.AST, path: str, late: bool, found: list[Import]) -> None:
    place = f"{path}:{getattr(node, 'lineno', 0)}"
    if isinstance(node, ast.Import):
        found += [Import(one.name, one.name, place, late) for one in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(path, node)
        found += [Import(module, f"{module}.{one.name}", place, late) for one in node.names]
    elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
        found.append(Import(name, name, place, late))
    body_is_late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    body_is_late = body_is_late or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        _collect(child, path, body_is_late, found)


def _absolute(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = PurePosixPath(path).parts[:-node.level]
    return ".".join((*package, *([node.module] if node.module else [])))


def _imported_by_call(node: ast.Call) -> str:
    """`import_module("x")` and `__import__("x")` count too, where the name is spelled out."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    spelled = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return first.value if spelled and called in ("import_module", "__import__") else ""


def stage_folders(project: Project) -> set[str]:
    """Return the names of the folders below stages/ that are stages."""
    paths = [PurePosixPath(path) for path in project]
    found = {path.parts[1] for path in paths if path.match("stages/*/config.py") or path.match("stages/*/stage.py")}
    return found - LIBRARY


def _modules(project: Project) -> set[str]:
    """Return the dotted names of all modules and packages of the project."""
    found = set()
    for path in project:
        parts = PurePosixPath(path).with_suffix("").parts
        found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return found


def _below(project: Project, *folders: str) -> Iterator[tuple[str, Import]]:
    for path, source in project.items():
        if path.startswith(tuple(folder + "/" for folder in folders)):
            for one in imports(path, source):
                yield path, one


def _is_standard(one: Import) -> bool:
    # tomli is the standard library's tomllib for Python 3.10.
    return one.top in sys.stdlib_module_names or one.top == "tomli"


def command_line_imports(project: Project) -> list[str]:
    """wsss_cli has the standard library, typer, rich, the table, errors, settings and configs; stages late."""
    modules, told = _modules(project), []
    light = ("wsss_cli", "typer", "rich", "stages.errors", "stages.settings", *LIGHT)
    for _, one in _below(project, "wsss_cli"):
        is_table = one.target == "stages" or (one.module == "stages" and one.target not in modules)
        parts = one.target.split(".")
        of_stage = len(parts) >= 3 and parts[0] == "stages" and parts[1] not in LIBRARY - {"training"}
        is_stage = of_stage and (parts[2] == "config" or (parts[2] == "stage" and one.late and parts[1] not in LIBRARY))
        if not (_is_standard(one) or one.within(*light) or is_table or is_stage):
            told.append(f"{one.place}: the command line imports {one.target}{'' if one.late else ' at the top'}")
    return told


def command_line_arithmetic(project: Project) -> list[str]:
    """wsss_cli computes nothing."""
    return [f"{one.place}: the command line imports {one.top}"
            for _, one in _below(project, "wsss_cli") if one.top in ARITHMETIC]


def stages_apart(project: Project) -> list[str]:
    """A stage never imports another stage, and what serves several stages imports none."""
    stages, told = stage_folders(project), []
    for path, one in _below(project, "stages"):
        own = path.split("/")[1]
        others = [f"stages.{name}" for name in stages if name != own]
        if one.within(*others, "wsss_cli"):
            told.append(f"{one.place}: stages/{own} imports {one.target}")
    return told


def only_shards_has_h5py(project: Project) -> list[str]:
    """HDF5 is touched in stages/shards alone."""
    return [f"{one.place}: h5py outside stages/shards" for path, one in _below(project, "stages", "wsss_cli")
            if one.top == "h5py" and not path.startswith("stages/shards/")]


def kernels_are_mathematics(project: Project) -> list[str]:
    """Kernels import numpy, scipy, torch and each other; pydensecrf, an extra, only inside a function."""
    allowed = ("numpy", "scipy", "torch", "stages.kernels", "stages.errors")
    return [f"{one.place}: a kernel imports {one.target}" for _, one in _below(project, "stages/kernels")
            if not (_is_standard(one) or one.within(*allowed) or (one.top == "pydensecrf" and one.late))]


def methods_see_no_files(project: Project) -> list[str]:
    """Methods (tensors in, tensors out) import neither shards nor flow."""
    folders = [f"stages/{name}" for name in stage_folders(project)]
    return [f"{one.place}: a method imports {one.target}" for path, one in _below(project, *folders)
            if PurePosixPath(path).name not in NOT_METHODS and one.within("stages.shards", "stages.flow")]


def configs_are_light(project: Project) -> list[str]:
    """A config.py imports the standard library, settings, errors and the settings of training."""
    allowed = ("stages.settings", "stages.errors", "stages.training.config")
    return [f"{one.place}: a config imports {one.target}" for path, one in _below(project, "stages")
            if PurePosixPath(path).name == "config.py" and not (_is_standard(one) or one.within(*allowed))]


def nets_and_data_stand_below(project: Project) -> list[str]:
    """Nets know no data, shards or flow; data may read an index, and knows no nets, flow or training."""
    refused = {"stages/nets": ("stages.data", "stages.shards", "stages.flow"),
               "stages/data": ("stages.nets", "stages.flow", "stages.training")}
    return [f"{one.place}: {folder} imports {one.target}" for folder, packages in refused.items()
            for _, one in _below(project, folder) if one.within(*packages)]


def files_are_short(project: Project) -> list[str]:
    """No file is longer than LONGEST_FILE lines."""
    counted = {path: len(source.splitlines()) for path, source in project.items()}
    return [f"{path}:{count}: over {LONGEST_FILE} lines" for path, count in counted.items() if count > LONGEST_FILE]


def functions_are_short(project: Project) -> list[str]:
    """No function is longer than LONGEST_FUNCTION lines."""
    told = []
    for path, source in project.items():
        for node in ast.walk(ast.parse(source, path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > LONGEST_FUNCTION:
                    told.append(f"{path}:{node.lineno}: {node.name} has {count} lines, over {LONGEST_FUNCTION}")
    return told


def names_say_something(project: Project) -> list[str]:
    """No file or folder is called utils, helpers or the like."""
    return [f"{path}:1: a name that says nothing" for path in project
            if NAMES_OF_NOTHING & set(PurePosixPath(path).with_suffix("").parts)]


IMPORT_RULES: tuple[Callable[[Project], list[str]], ...] = (
    command_line_imports, command_line_arithmetic, stages_apart, only_shards_has_h5py, kernels_are_mathematics,
    methods_see_no_files, configs_are_light, nets_and_data_stand_below,
)
SHAPE_RULES: tuple[Callable[[Project], list[str]], ...] = (files_are_short, functions_are_short, names_say_something)
