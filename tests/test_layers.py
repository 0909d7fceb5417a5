"""The rooms of the package: every file is in one, imports point down, and no modules import each other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import capo_lit

PACKAGE = Path(capo_lit.__file__).parent
# From the top; rooms of one line may not import each other. docs/architecture.md says what each is.
LAYERS = (
    ("cli",),
    ("training", "arithmetic"),
    ("records",),
    ("evaluation",),
    ("data", "genprm"),
    ("engines", "verifier"),
    ("batch",),
    ("core",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package goes by its folder's."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(("capo_lit", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in paths}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, also within functions and for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import by dots; name the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name if name in known else f"{name}.__init__" for name in found if name.split(".")[0] == "capo_lit"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_file_is_in_a_room():
    strangers = [name for name in modules() if room_of(name) not in RANK and name != "capo_lit.__init__"]
    assert strangers == []
    assert {room_of(name) for name in modules()} == {*RANK, "__init__"}


def test_no_import_points_up_or_to_a_neighbour():
    known = modules()
    wrong = []
    for name, path in known.items():
        if name == "capo_lit.__init__":
            continue  # the public names
        for target in imports_of(path, known):
            own, other = room_of(name), room_of(target)
            if other not in RANK or (own != other and RANK[own] >= RANK[other]):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    # cli.sweep imports itself, so that Hydra does not meet it twice when it is run as a script.
    arrows = {name: imports_of(path, known) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
