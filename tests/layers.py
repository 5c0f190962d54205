"""Check who imports whom, and other rules about the sources; each rule returns violations as `file:line: text`.

A project is a mapping of relative paths to sources, so that tests can insert violations.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

Project = Mapping[str, str]

# Folders of stages/ shared by several stages; every other folder with a config.py or a stage.py is a stage.
LIBRARY = {"shards", "flow", "data", "nets", "training", "kernels"}
# Modules of flow that import only the standard library, so that the command line may import them at the top level.
LIGHT_MODULES = {"stages.flow.execution", "stages.flow.path_stream"}
ARITHMETIC = {"torch", "torchvision", "timm", "open_clip", "numpy", "scipy", "h5py", "sklearn", "PIL", "pydensecrf",
              "skimage", "numba", "math", "cmath", "statistics", "decimal", "fractions", "random"}
NOT_METHODS = {"__init__.py", "config.py", "stage.py", "workers.py", "registry.py"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc"}
PYTHON_MODULE = "wsss.py"  # the Python interface, whose parts are in wsss_api
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


@dataclass(frozen=True)
class Import:
    """An imported name: its `module`, its `target` (the module or the name in it), and its location."""

    module: str
    target: str
    location: str
    is_late: bool

    def is_within(self, *packages: str) -> bool:
        """Return whether the target is one of `packages` or inside one."""
        return any(self.target == package or self.target.startswith(package + ".") for package in packages)

    @property
    def top_level(self) -> str:
        return self.target.split(".")[0]


def read_project(root: Path, folders: tuple[str, ...] = ("stages", "wsss_cli", "wsss_api")) -> dict[str, str]:
    """Return the sources below `folders` of `root`, and its module `wsss.py`."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    paths += [root / PYTHON_MODULE]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def find_imports(path: str, source: str) -> list[Import]:
    """Return all imports of a file; those inside a function or under TYPE_CHECKING are late."""
    imports: list[Import] = []
    _collect_imports(ast.parse(source, path), path, False, imports)
    return imports


def _collect_imports(node: ast.AST, path: str, is_late: bool, imports: list[Import]) -> None:
    location = f"{path}:{getattr(node, 'lineno', 0)}"
    if isinstance(node, ast.Import):
        imports += [Import(alias.name, alias.name, location, is_late) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = _resolve_module(path, node)
        imports += [Import(module, f"{module}.{alias.name}", location, is_late) for alias in node.names]
    elif isinstance(node, ast.Call) and (name := _get_called_import(node)):
        imports.append(Import(name, name, location, is_late))
    body_is_late = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    body_is_late = body_is_late or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        _collect_imports(child, path, body_is_late, imports)


def _resolve_module(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = PurePosixPath(path).parts[:-node.level]
    return ".".join((*package, *([node.module] if node.module else [])))


def _get_called_import(node: ast.Call) -> str:
    """Return the module imported by `import_module("x")` or `__import__("x")`, or an empty string."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    spelled = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return first.value if spelled and called in ("import_module", "__import__") else ""


def find_stage_folders(project: Project) -> set[str]:
    """Return the names of the folders in stages/ that are stages."""
    paths = [PurePosixPath(path) for path in project]
    folders = {path.parts[1] for path in paths if path.match("stages/*/config.py") or path.match("stages/*/stage.py")}
    return folders - LIBRARY


def _find_modules(project: Project) -> set[str]:
    """Return the dotted names of all modules and packages of the project."""
    modules = set()
    for path in project:
        parts = PurePosixPath(path).with_suffix("").parts
        modules |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return modules


def _iterate_imports(project: Project, *folders: str) -> Iterator[tuple[str, Import]]:
    """Yield (path, import) of all files in `folders`."""
    for path, source in project.items():
        if path.startswith(tuple(folder + "/" for folder in folders)):
            for imported in find_imports(path, source):
                yield path, imported


def _is_standard(imported: Import) -> bool:
    # On Python 3.10 tomli replaces tomllib of the standard library.
    return imported.top_level in sys.stdlib_module_names or imported.top_level == "tomli"


def check_command_line_imports(project: Project) -> list[str]:
    """wsss_cli imports the standard library, typer, rich, errors, settings and configs, and stages only late."""
    modules, violations = _find_modules(project), []
    light = ("wsss_cli", "typer", "rich", "stages.errors", "stages.settings", *LIGHT_MODULES)
    for _, imported in _iterate_imports(project, "wsss_cli"):
        is_table = imported.target == "stages" or (imported.module == "stages" and imported.target not in modules)
        parts = imported.target.split(".")
        is_in_stage = len(parts) >= 3 and parts[0] == "stages" and parts[1] not in LIBRARY - {"training"}
        is_late_stage = imported.is_late and parts[1:2] and parts[1] not in LIBRARY and parts[2:3] == ["stage"]
        is_stage = is_in_stage and (parts[2] == "config" or is_late_stage)
        if not (_is_standard(imported) or imported.is_within(*light) or is_table or is_stage):
            at_top_level = "" if imported.is_late else " at the top level"
            violations.append(f"{imported.location}: the command line imports {imported.target}{at_top_level}")
    return violations


def check_command_line_arithmetic(project: Project) -> list[str]:
    """wsss_cli does no arithmetic."""
    return [f"{imported.location}: the command line imports {imported.top_level}"
            for _, imported in _iterate_imports(project, "wsss_cli") if imported.top_level in ARITHMETIC]


def check_stage_isolation(project: Project) -> list[str]:
    """A stage never imports another stage, and shared folders import no stage."""
    stages, violations = find_stage_folders(project), []
    for path, imported in _iterate_imports(project, "stages"):
        stage = path.split("/")[1]
        others = [f"stages.{name}" for name in stages if name != stage]
        if imported.is_within(*others, "wsss_cli"):
            violations.append(f"{imported.location}: stages/{stage} imports {imported.target}")
    return violations


def check_h5py_imports(project: Project) -> list[str]:
    """Only stages/shards imports h5py."""
    return [f"{imported.location}: h5py outside stages/shards" for path,
            imported in _iterate_imports(project, "stages", "wsss_cli", "wsss_api")
            if imported.top_level == "h5py" and not path.startswith("stages/shards/")]


def check_kernel_imports(project: Project) -> list[str]:
    """Kernels import numba, numpy, scipy, torch and each other; pydensecrf (optional) only inside a function."""
    allowed = ("numba", "numpy", "scipy", "torch", "stages.kernels", "stages.errors")
    return [f"{imported.location}: a kernel imports {imported.target}" for _,
            imported in _iterate_imports(project, "stages/kernels")
            if not (_is_standard(imported) or imported.is_within(*allowed)
                    or (imported.top_level == "pydensecrf" and imported.is_late))]


def check_method_imports(project: Project) -> list[str]:
    """Methods (tensors in, tensors out) import neither shards nor flow."""
    folders = [f"stages/{name}" for name in find_stage_folders(project)]
    return [f"{imported.location}: a method imports {imported.target}" for path,
            imported in _iterate_imports(project, *folders)
            if not _is_flow_file(PurePosixPath(path).name) and imported.is_within("stages.shards", "stages.flow")]


def _is_flow_file(name: str) -> bool:
    """Return whether a file of a stage may import shards and flow; `NAME_worker.py` has the worker of a method."""
    return name in NOT_METHODS or name.endswith("_worker.py")


def check_config_imports(project: Project) -> list[str]:
    """A config.py imports the standard library, settings, errors and the settings of training."""
    allowed = ("stages.settings", "stages.errors", "stages.training.config")
    return [f"{imported.location}: a config imports {imported.target}" for path,
            imported in _iterate_imports(project, "stages")
            if PurePosixPath(path).name == "config.py" and not (_is_standard(imported) or imported.is_within(*allowed))]


def check_net_and_data_imports(project: Project) -> list[str]:
    """Nets import no data, shards or flow; data may read an index, but imports no nets, flow or training."""
    forbidden = {"stages/nets": ("stages.data", "stages.shards", "stages.flow"),
                 "stages/data": ("stages.nets", "stages.flow", "stages.training")}
    return [f"{imported.location}: {folder} imports {imported.target}" for folder, packages in forbidden.items()
            for _, imported in _iterate_imports(project, folder) if imported.is_within(*packages)]


def check_python_interface(project: Project) -> list[str]:
    """wsss.py imports light modules only, wsss_api also the library, and nothing else imports either of them."""
    light = ("stages.errors", "stages.flow.execution", "stages.VERSION", "wsss_api")
    library = ("stages", "wsss_api", "numpy", "PIL", "torch")
    violations = [f"{imported.location}: {PYTHON_MODULE} imports {imported.target}"
                  for imported in find_imports(PYTHON_MODULE, project.get(PYTHON_MODULE, ""))
                  if not (imported.is_late or _is_standard(imported) or imported.is_within(*light))]
    violations += [f"{imported.location}: the Python interface imports {imported.target}"
                   for _, imported in _iterate_imports(project, "wsss_api")
                   if not (_is_standard(imported) or imported.is_within(*library)
                           or (imported.is_late and imported.top_level in ("pandas", "torchvision")))]
    return violations + [f"{imported.location}: the program imports the Python interface"
                         for _, imported in _iterate_imports(project, "stages", "wsss_cli")
                         if imported.is_within("wsss", "wsss_api")]


def check_file_lengths(project: Project) -> list[str]:
    """No file is longer than MAX_FILE_LINES lines."""
    lengths = {path: len(source.splitlines()) for path, source in project.items()}
    return [f"{path}:{count}: over {MAX_FILE_LINES} lines" for path, count in lengths.items() if count > MAX_FILE_LINES]


def check_function_lengths(project: Project) -> list[str]:
    """No function is longer than MAX_FUNCTION_LINES lines."""
    violations = []
    for path, source in project.items():
        for node in ast.walk(ast.parse(source, path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MAX_FUNCTION_LINES:
                    violations.append(f"{path}:{node.lineno}: {node.name} has {count} lines, over {MAX_FUNCTION_LINES}")
    return violations


def check_module_names(project: Project) -> list[str]:
    """No file or folder has a vague name such as utils or helpers."""
    return [f"{path}:1: the name of the file is vague" for path in project
            if VAGUE_NAMES & set(PurePosixPath(path).with_suffix("").parts)]


IMPORT_RULES: tuple[Callable[[Project], list[str]], ...] = (
    check_command_line_imports, check_command_line_arithmetic, check_stage_isolation, check_h5py_imports,
    check_kernel_imports, check_method_imports, check_config_imports, check_net_and_data_imports,
    check_python_interface,
)
SHAPE_RULES: tuple[Callable[[Project], list[str]], ...] = (check_file_lengths, check_function_lengths,
                                                           check_module_names)
