"""What the whole tree must look like: declared extensions, sizes, docstrings, no leftovers.

Each rule is a function from files to a list of problems, run over the files that git tracks or
would track, and tried on planted files at the end.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from shardd.version import SHARDD_VERSION

ROOT: Final = Path(__file__).resolve().parents[2]

LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 70
COLUMNS_MAX: Final = 100
CODE: Final = {".py", ".pyi", ".pyx", ".pxd", ".h"}
CYTHON: Final = {".pyx", ".pxd"}

# What every checkout holds.
EXPECTED: Final = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    ".ci/run",
    "docs/architecture.md",
    "docs/dependencies.md",
    "conf/README.md",
    "conf/shardd.service",
    "shardd/py.typed",
)

# Where a walk does not go when there is no git to ask.
NOT_OURS: Final = {"build", "dist", "__pycache__", "htmlcov"}


def tracked_files(root: Path) -> list[Path]:
    """The files that git has or would take, or a walk where this is not a checkout."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    try:
        listing = subprocess.run(
            [*command, "--exclude-standard"], capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        listing = ""
    # Nothing at all is what git says about a copy inside a folder that it ignores.
    names = listing.split("\0") if listing else [str(path) for path in walk(root)]
    return sorted(root / name for name in names if name and (root / name).is_file())


def walk(root: Path) -> Iterator[Path]:
    """Files below `root`, relative to it, without what was generated."""
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        generated = path.suffix in {".so", ".pyc"} or (
            path.suffix == ".c" and path.with_suffix(".pyx").exists()
        )
        folders = relative.parts[:-1]
        hidden = any(name.startswith(".") and name != ".ci" for name in folders)
        if not (generated or hidden or NOT_OURS & set(folders)):
            yield relative


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return tracked_files(ROOT)


def check(problems: Iterable[str]) -> None:
    """Fail with one problem a line."""
    found = list(problems)
    assert not found, "\n" + "\n".join(found)


def shown(path: Path) -> str:
    """The path as messages show it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


# --- the rules -------------------------------------------------------------------------------


def declared_extensions(pyproject: str) -> dict[str, list[str]]:
    """Name and sources of each extension in the text of a pyproject.toml."""
    tool = tomllib.loads(pyproject)["tool"]
    return {table["name"]: table["sources"] for table in tool["setuptools"]["ext-modules"]}


def undeclared(pyproject: str, sources: Iterable[str]) -> Iterator[str]:
    """Differences between the .pyx files of the package and the declared extensions."""
    declared = declared_extensions(pyproject)
    expected = {name.removesuffix(".pyx").replace("/", "."): [name] for name in sources}
    for name in sorted(expected.keys() - declared.keys()):
        yield f"{name}: add a [[tool.setuptools.ext-modules]] table to pyproject.toml"
    for name in sorted(declared.keys() - expected.keys()):
        yield f"{name}: declared in pyproject.toml, but there is no such .pyx"
    for name in sorted(declared.keys() & expected.keys()):
        if declared[name] != expected[name]:
            yield f"{name}: its sources should be {expected[name]}"


def missing_faces(paths: Iterable[Path]) -> Iterator[str]:
    """Cython modules that lack their C face or their Python face."""
    for path in paths:
        if path.suffix == ".pyx":
            for suffix in (".pxd", ".pyi"):
                if not path.with_suffix(suffix).exists():
                    yield f"{shown(path)}: has no {suffix}"


def too_large(paths: Iterable[Path]) -> Iterator[str]:
    """Files, lines and Python functions beyond their sizes."""
    for path in paths:
        if path.suffix not in CODE:
            continue
        lines = path.read_text("utf-8").splitlines()
        if len(lines) >= LINES_MAX:
            yield f"{shown(path)}: {len(lines)} lines"
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS_MAX:
                yield f"{shown(path)}:{number}: {len(line)} columns"
        if path.suffix == ".py":
            yield from too_long_functions(path)


def too_long_functions(path: Path) -> Iterator[str]:
    """Python functions that do not fit a screen."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{shown(path)}:{node.lineno}: {node.name} has {length} lines"


# Cython's directives stand above the docstring, and so may a line for the kernel.
_OPENING = re.compile(r'(?:[ \t]*(?:#[^\n]*)?\n)*(?:[rR]?"""[^"\s]|/\*)')


def without_opening(paths: Iterable[Path]) -> Iterator[str]:
    """Modules that do not open with a docstring (a comment, in C)."""
    for path in paths:
        if path.suffix in CODE and not _OPENING.match(path.read_text("utf-8")):
            yield f"{shown(path)}: does not open with a docstring"


# One letter in brackets keeps each pattern from matching its own text.
_MARKERS = re.compile(r"\b(?:TO[D]O|FIX[M]E)\b|(?:#|/\*)[ \t]*XX[X]\b")
_PLACES = re.compile(
    r"(?<![\w.~])/(?:wor[k]|roo[t]|home/\w+|Users/\w+)(?=[/\s\"'`),:;]|$)"
    r"|/tmp/scratc[h]"
    r"|\b(?:pyp[i]\.org|pythonhoste[d]\.org|golan[g]\.org(?!/x/)|npmj[s]\.org|crate[s]\.io)\b"
    r"|\b(?:inde[x]-url|truste[d]-host)\b"
)
_CYTHON_BANNED = re.compile(
    r"^[ \t]*(?:include[ \t]+[\"']|from[ \t]+\S+[ \t]+cimport[ \t]+\*|DEF[ \t]|IF[ \t])",
    re.MULTILINE,
)


def matches(paths: Iterable[Path], pattern: re.Pattern[str], what: str) -> Iterator[str]:
    """Each line of a text file that matches."""
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for found in pattern.finditer(text):
            number = text.count("\n", 0, found.start()) + 1
            yield f"{shown(path)}:{number}: {what}: {found.group().strip()}"


def sleeps(paths: Iterable[Path]) -> Iterator[str]:
    """Calls of `sleep` with anything but a plain zero, which only lets others run."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and called_name(node) in {"time.sleep", "sleep"}:
                yield f"{shown(path)}:{node.lineno}: sleeps; wait for what should happen"


def called_name(call: ast.Call) -> str:
    """`a.b` for the call of a name or of an attribute of a name."""
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return f"{function.value.id}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


# --- the project -----------------------------------------------------------------------------


def below(files: Iterable[Path], *folders: str) -> list[Path]:
    """The files in these folders of the project."""
    return [path for path in files if path.relative_to(ROOT).parts[0] in folders]


def test_every_pyx_is_declared_and_every_declared_one_exists(files: list[Path]) -> None:
    sources = [shown(path) for path in below(files, "shardd") if path.suffix == ".pyx"]
    check(undeclared((ROOT / "pyproject.toml").read_text("utf-8"), sources))


def test_the_version_in_the_code_is_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == SHARDD_VERSION


def test_every_pyx_has_its_c_face_and_its_python_face(files: list[Path]) -> None:
    check(missing_faces(below(files, "shardd")))


def test_files_lines_and_functions_keep_to_their_sizes(files: list[Path]) -> None:
    check(too_large(files))


def test_every_module_opens_with_a_docstring(files: list[Path]) -> None:
    check(without_opening(files))


def test_nothing_is_left_for_later(files: list[Path]) -> None:
    check(matches(files, _MARKERS, "unfinished"))


def test_no_file_names_a_machine_or_a_registry(files: list[Path]) -> None:
    check(matches(files, _PLACES, "names a place"))


def test_cython_files_share_by_cimport_of_named_things(files: list[Path]) -> None:
    cython = [path for path in files if path.suffix in CYTHON]
    check(matches(cython, _CYTHON_BANNED, "not in this house"))


def test_no_test_sleeps(files: list[Path]) -> None:
    waiting = ROOT / "tests/support/waiting.py"
    tests = [path for path in below(files, "tests") if path.suffix == ".py" and path != waiting]
    check(sleeps(tests))


def test_what_every_checkout_holds_is_there() -> None:
    check(f"{name}: missing" for name in EXPECTED if not (ROOT / name).is_file())
    assert (ROOT / ".ci/run").stat().st_mode & 0o111, ".ci/run is not executable"


# --- the rules themselves --------------------------------------------------------------------


def plant(folder: Path, name: str, text: str) -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text)
    return path


PYPROJECT: Final = """
[[tool.setuptools.ext-modules]]
name = "shardd.wire"
sources = ["shardd/wire.pyx"]
"""


def test_declaration_rule_finds_both_kinds_of_difference() -> None:
    assert list(undeclared(PYPROJECT, ["shardd/wire.pyx"])) == []
    (missing,) = undeclared(PYPROJECT, ["shardd/wire.pyx", "shardd/router/ring.pyx"])
    assert missing.startswith("shardd.router.ring: add")
    (gone,) = undeclared(PYPROJECT, [])
    assert gone.startswith("shardd.wire: declared")
    (misnamed,) = undeclared(PYPROJECT.replace("wire.pyx", "wires.pyx"), ["shardd/wire.pyx"])
    assert misnamed.startswith("shardd.wire: its sources")


def test_faces_rule_finds_a_pyx_without_pxd_or_pyi(tmp_path: Path) -> None:
    path = plant(tmp_path, "alone.pyx", '"""Alone."""\n')
    assert list(missing_faces([path])) == ["alone.pyx: has no .pxd", "alone.pyx: has no .pyi"]


def test_size_rule_finds_long_files_lines_and_functions(tmp_path: Path) -> None:
    body = "".join(f"    x{number} = 1\n" for number in range(FUNCTION_LINES_MAX))
    long_function = plant(tmp_path, "a.py", '"""A."""\n\n\ndef f():\n' + body)
    assert list(too_large([long_function])) == ["a.py:4: f has 71 lines"]
    long_line = plant(tmp_path, "b.pyx", "x" * 101 + "\n")
    assert list(too_large([long_line])) == ["b.pyx:1: 101 columns"]
    long_file = plant(tmp_path, "c.pxd", "\n" * LINES_MAX)
    assert list(too_large([long_file])) == ["c.pxd: 600 lines"]


@pytest.mark.parametrize(
    ("name", "text", "opens"),
    [
        ("a.py", '"""What lives here."""\n', True),
        ("a.pyx", '# cython: language_level=3str\n"""What lives here."""\n', True),
        ("a.h", "/* What lives here. */\n", True),
        ("a.py", "import os\n", False),
        ("a.pyi", "", False),
        ("a.pxd", '# cython: x\nfrom a cimport b\n"""Too late."""\n', False),
    ],
)
def test_opening_rule(tmp_path: Path, name: str, text: str, opens: bool) -> None:
    assert (list(without_opening([plant(tmp_path, name, text)])) == []) is opens


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (_MARKERS, "# TO" + "DO: later"),
        (_MARKERS, "/* FIX" + "ME */"),
        (_MARKERS, "# XX" + "X: why"),
        (_PLACES, "see /wor" + "k/shared/notes"),
        (_PLACES, 'path = "/roo' + 't/.cache"'),
        (_PLACES, "https://pypi" + ".org/simple"),
        (_CYTHON_BANNED, 'include "other.pxi"'),
        (_CYTHON_BANNED, "from shardd.wire cimport *"),
        (_CYTHON_BANNED, "DEF SIZE = 3"),
    ],
)
def test_text_rules_find_what_they_are_for(
    tmp_path: Path, pattern: re.Pattern[str], text: str
) -> None:
    found = list(matches([plant(tmp_path, "a.pyx", "fine\n" + text + "\n")], pattern, "bad"))
    assert [line.split(" ")[0] for line in found] == ["a.pyx:2:"]


@pytest.mark.parametrize(
    "text",
    [
        "a network/workers/root of it",
        "the framework/root element, ./work",
        "#include <string.h>\nfrom shardd.wire cimport next_operation",
    ],
)
def test_text_rules_leave_ordinary_text_alone(tmp_path: Path, text: str) -> None:
    path = plant(tmp_path, "a.pyx", text)
    for pattern in (_MARKERS, _PLACES, _CYTHON_BANNED):
        assert list(matches([path], pattern, "bad")) == []


def test_sleep_rule_finds_calls_and_not_words(tmp_path: Path) -> None:
    path = plant(tmp_path, "a.py", '"""time.sleep(1)"""\nimport time\ntime.sleep(0.1)\n')
    assert list(sleeps([path])) == ["a.py:3: sleeps; wait for what should happen"]


def test_a_folder_without_git_is_walked_and_generated_files_are_left_out(tmp_path: Path) -> None:
    for folder in (".venv", "build", "a", ".ci"):
        (tmp_path / folder).mkdir()
    for name in (".venv/x.py", "build/x.py", "a/m.pyx", "a/m.c", "a/m.so", "a/n.c", ".ci/run"):
        plant(tmp_path, name, "text")
    names = [str(path.relative_to(tmp_path)) for path in tracked_files(tmp_path)]
    assert names == [".ci/run", "a/m.pyx", "a/n.c"]
