"""Who may import whom: the judge of the house's rows, for Python and Cython alike.

import-linter reads `.py` files only. This checker also reads `.pyi`, `.pyx` and `.pxd`, imports and
cimports, and treats the four files of one name as one module. It holds three rules:

- every module has a place in `LAYERS`, and imports only from rows below its own;
- there is no cycle, whatever exceptions `SIBLINGS` grants;
- the modules in `SANS_IO` do not reach the outside world, not even through others.

The checker is tested on small trees with planted violations at the end of this file.
"""

import ast
import graphlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = "shardd"

# Bottom row first. Names in one row are strangers to each other. A mapping inside a row is a
# package, with rows of its own; seen from outside, all of it stands in that one place.
LAYERS: Final = (
    ("errors", "limits", "version"),
    ("logfile", "logformat"),
    ("syslog",),
    (
        *("identity", "layer", "log", "moments", "notify", "process", "shm", "sockets"),
        *("timers", "topology", "transform", "values", "watch"),
    ),
    (
        {
            "config": (
                ("ciphers", "model", "streaming", "tree"),
                ("reading", "streaming_check", "syntax"),
                ("core", "sharing", "streaming_block", "unserved"),
                ("access",),
                ("listeners", "queue_policies"),
                ("load",),
            )
        },
        "poller",
        "quotas",
        "runfiles",
        "slots",
        "wire",
    ),
    (
        {
            "auth": (
                ("identity", "nkeys", "passwords", "certificates"),
                ("claims", "seeds"),
                ("operator",),
                ("authenticator",),
            )
        },
        "inquiry",
        "lameduck",
        "orders",
        "outbound",
        "pulse",
        "reload",
        "source_probe",
        "surroundings",
        "tls",
    ),
    (
        "login",
        "outbound_probe",
        {
            "reports": (
                ("absent", "documents", "query"),
                ("connz", "healthz", "processz", "subsz", "varz"),
                ("accountz",),
                ("events",),
            )
        },
    ),
    (
        {
            "router": (
                ("doorbell", "frame", "ring", "subject", "table"),
                ("frame_probe", "imports", "match_cache", "policies", "ring_probe", "trie"),
                ("patterns", "permissions"),
                ("shares",),
                ("match_result",),
                ("sublist",),
                ("bell", "dispatch", "sublist_probe"),
                ("local", "mesh", "spaces"),
                ("control", "spaces_probe"),
            )
        },
    ),
    ("host",),
    (
        {
            "worker": (
                ("info", "websocket"),
                ("door", "gate", "handover", "session"),
                ("shared",),
                ("receiver",),
                ("rights",),
                ("reader",),
                ("life",),
                ("connection",),
                ("listener", "observer", "pump"),
                ("main",),
            )
        },
        {
            "routes": (
                ("greeting", "peer", "roster", "wire"),
                ("pool", "relay"),
                ("route",),
                ("cluster", "pump"),
                ("statistics",),
                ("main",),
            )
        },
        {
            "streaming": (
                (
                    *("bus", "checksum", "msgproto", "protobuf"),
                    *("schedule", "subjects", "texts"),
                ),
                ("seal",),
                ("log",),
                (
                    *("client_wire", "limits_of", "log_probe", "mesh_bus", "messages", "pb"),
                    *("pool", "receiver_probe", "records", "store", "stored_messages"),
                ),
                # stores
                ("guard", "inflight", "memory_log", "segment", "state_db", "traffic"),
                ("bus_probe", "encrypted_store", "memory_store", "subscription", "batch"),
                ("clients", "queue_group", "write_job"),
                ("channel", "file_log"),
                ("commit_batch", "file_recovery"),
                ("file_commit", "postgres_log", "postgres_rows", "postgres_session", "receiver"),
                ("postgres_commit",),
                # the core
                ("core", "file_store", "postgres_recovery", "postgres_thread"),
                ("channels", "followers", "foreign", "inquiries", "postgres_store"),
                ("burial", "importing", "subscribing"),
                ("admin", "connecting", "recovery"),
                ("membership",),
                ("server",),
                # what it runs on
                ("engine", "partition_bus", "statistics", "stores", "tcp_bus"),
                ("fault_tolerance", "partitioning", "questions"),
                ("standby",),
                ("served",),
                ("dialer", "main"),
                ("alone", "verify"),
                (
                    {
                        "client": (
                            ("errors", "message", "options"),
                            ("link",),
                            ("pings",),
                            ("session",),
                            ("publisher", "subscription"),
                            ("connection",),
                        )
                    },
                ),
            )
        },
    ),
    (
        {
            "load": (
                ("histogram", "plan", "system"),
                ("greeting", "links", "page", "report"),
                ("receiving", "sending"),
                ("asking",),
                ("run",),
            )
        },
        {
            "monitor": (
                ("asker", "member", "page", "visitors"),
                ("gathering", "streaming"),
                ("metrics", "system"),
                ("http",),
                ("main",),
            )
        },
    ),
    ("supervisor",),
    (
        {
            "cli": (
                ("client", "flags", "servers", "watching"),
                ("check", "commands", "routes", "signals", "stream", "streaming", "top"),
                ("bench", "start"),
                ("main",),
            )
        },
    ),
    ("__main__",),
)

# Siblings of one row that may know each other, each pair (importer, imported) with a reason.
SIBLINGS: Final[frozenset[tuple[str, str]]] = frozenset()

# Bytes and events in, effects out; clock and seed are handed in.
SANS_IO: Final = frozenset(
    (
        "auth.authenticator auth.certificates auth.claims auth.identity auth.nkeys "
        "auth.operator auth.passwords auth.seeds config.access config.core config.model "
        "config.queue_policies config.reading config.streaming config.streaming_block "
        "config.streaming_check "
        "config.syntax config.tree config.unserved errors identity lameduck layer "
        "limits moments reload reports.absent reports.accountz reports.connz reports.documents "
        "reports.events reports.healthz reports.query reports.subsz reports.varz "
        "router.dispatch router.frame router.imports "
        "router.match_cache router.match_result router.patterns router.permissions "
        "router.policies router.shares "
        "router.ring router.spaces router.subject router.sublist router.table "
        "router.trie timers transform values watch wire worker.info worker.session"
    ).split()
) | frozenset(
    f"streaming.{name}"
    for name in (
        "admin burial bus bus_probe channel channels checksum client_wire clients commit_batch "
        "connecting core fault_tolerance followers inflight inquiries limits_of log membership "
        "memory_log memory_store messages msgproto pb pool protobuf queue_group "
        "receiver recovery schedule seal server statistics store stored_messages subjects "
        "subscribing subscription texts traffic"
    ).split()
)

# What those may not reach: modules of Python and of Cython's C library, and C headers.
OUTSIDE: Final = frozenset(
    "asyncio uvloop zmq socket ssl select selectors sqlite3 time random secrets subprocess "
    "signal threading multiprocessing libc.time posix.time posix.unistd posix.fcntl "
    "sys/socket.h sys/epoll.h sys/eventfd.h sys/time.h netinet/in.h unistd.h time.h".split()
)

# --- reading ---------------------------------------------------------------------------------

KINDS: Final = (".py", ".pyi", ".pyx", ".pxd")

# Comments and blocks of text go, strings on one line stay: `cdef extern from` names a header.
_COMMENT_OR_STRING = re.compile(
    r'(?P<text>"""(?:\\.|[^\\])*?"""|' + r"'''(?:\\.|[^\\])*?''')"
    r'|(?P<string>"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*')"
    r"|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
_CYTHON_IMPORT = re.compile(
    r"(?:^|;)[ \t]*(?:"
    r"from[ \t]+(?P<origin>[.\w]+)[ \t]+c?import[ \t]*(?P<names>\([^)]*\)|[^\n;]+)"
    r"|c?import[ \t]+(?P<modules>[^\n;]+)"
    r'|cdef[ \t]+extern[ \t]+from[ \t]+["\'<]+(?P<header>[^"\'>]+)'
    r")",
    re.MULTILINE,
)


def imports_of_python(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each import as (module, names taken from it); relative ones keep their leading dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield origin, tuple(alias.name for alias in node.names)


def imports_of_cython(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The same for a Cython file: imports, cimports, and C headers as if they were modules."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    text = _COMMENT_OR_STRING.sub(lambda found: found["string"] or "", text)
    for found in _CYTHON_IMPORT.finditer(text):
        if found["header"]:
            yield found["header"], ()
        elif found["origin"]:
            names = found["names"].strip("() \n").split(",")
            yield found["origin"], tuple(name.split()[0] for name in names if name.strip())
        else:
            for module in found["modules"].split(","):
                yield module.split()[0], ()


class Tree:
    """The modules of one package on disk, and what each imports, inside it and outside."""

    def __init__(self, root: Path, package: str = PACKAGE) -> None:
        self.package = package
        self.files: dict[str, list[Path]] = {}
        for path in sorted((root / package).rglob("*")):
            if path.suffix in KINDS:
                parts = path.relative_to(root).with_suffix("").parts
                if parts[-1] == "__init__":
                    parts = parts[:-1]
                self.files.setdefault(".".join(parts), []).append(path)
        self.inside: dict[str, set[str]] = {}
        self.outside: dict[str, set[str]] = {}
        for module, paths in self.files.items():
            found = {name for path in paths for name in self._imports(module, path)}
            mine = {name for name in found if name.split(".")[0] == package}
            self.inside[module] = mine - {module}
            self.outside[module] = found - mine

    def is_package(self, module: str) -> bool:
        """Whether the module is the `__init__` of a folder."""
        return any(path.stem == "__init__" for path in self.files[module])

    def _imports(self, module: str, path: Path) -> Iterator[str]:
        read = imports_of_python if path.suffix in {".py", ".pyi"} else imports_of_cython
        for origin, names in read(path):
            target = self._absolute(module, origin)
            if target.split(".")[0] != self.package:
                # `from posix cimport time` means the module as well as the package.
                yield target
                yield from (f"{target}.{name}" for name in names)
                continue
            submodules = [f"{target}.{name}" for name in names]
            yield from (name for name in submodules if name in self.files)
            if not names or any(name not in self.files for name in submodules):
                yield target

    def _absolute(self, module: str, origin: str) -> str:
        bare = origin.lstrip(".")
        level = len(origin) - len(bare)
        if level == 0:
            return origin
        base = module.split(".")
        base = base[: len(base) - level + self.is_package(module)]
        return ".".join([*base, bare] if bare else base)

    def short(self, module: str) -> str:
        """The module's name without the package."""
        return module.removeprefix(self.package + ".")


# --- judging ---------------------------------------------------------------------------------

Place = tuple[int, ...]


def places(rows: Sequence[Sequence[object]], prefix: str = "") -> dict[str, Place]:
    """Each name with its row and column, once per level it is nested in."""
    found: dict[str, Place] = {}
    for row, names in enumerate(rows):
        for column, entry in enumerate(names):
            if isinstance(entry, Mapping):
                for package, inner in entry.items():
                    found[prefix + package] = (row, column)
                    nested = places(inner, f"{prefix}{package}.")
                    found |= {name: (row, column, *rest) for name, rest in nested.items()}
            else:
                found[f"{prefix}{entry}"] = (row, column)
    return found


def is_above(importer: Place, imported: Place) -> bool:
    """Whether the first stands on a higher row than the second where their ways part."""
    for (row, column), (other_row, other_column) in zip(
        zip(importer[::2], importer[1::2], strict=True),
        zip(imported[::2], imported[1::2], strict=True),
        strict=False,
    ):
        if row != other_row or column != other_column:
            return row > other_row
    return False


def layer_violations(
    tree: Tree,
    layers: Sequence[Sequence[object]] = LAYERS,
    siblings: frozenset[tuple[str, str]] = SIBLINGS,
) -> list[str]:
    """Modules without a place, imports that do not go down, names taken through a package."""
    where = places(layers)
    modules = {module: tree.short(module) for module in tree.files if not tree.is_package(module)}
    problems = [
        f"{name} has no place: add it to LAYERS in {Path(__file__).name}, on the row above"
        " the highest module that it imports"
        for name in modules.values()
        if name not in where
    ]
    for module, name in modules.items():
        for target in sorted(tree.inside[module]):
            other = tree.short(target)
            if target not in tree.files:
                problems.append(f"{name} imports {target}, which does not exist")
            elif tree.is_package(target):
                problems.append(f"{name} takes a name through the package {target}")
            elif (
                {name, other} <= where.keys()
                and (name, other) not in siblings
                and not is_above(where[name], where[other])
            ):
                problems.append(f"{name} imports {other}, which is not on a row below it")
    return problems


def find_cycle(tree: Tree) -> list[str]:
    """The modules of one cycle, or an empty list."""
    try:
        graphlib.TopologicalSorter(tree.inside).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def reach_violations(tree: Tree, sans_io: frozenset[str] = SANS_IO) -> list[str]:
    """The ways on which a sans-IO module reaches the outside world."""
    problems = []
    for name in sorted(sans_io):
        start = f"{tree.package}.{name}"
        if start not in tree.files:
            continue
        ways = {start: [name]}
        todo = [start]
        while todo:
            module = todo.pop()
            reached = filter(is_outside, sorted(tree.outside.get(module, set())))
            problems += [" -> ".join([*ways[module], name]) for name in reached]
            for target in tree.inside.get(module, set()) - ways.keys():
                ways[target] = [*ways[module], tree.short(target)]
                todo.append(target)
    return problems


def is_outside(module: str) -> bool:
    """Whether the name, or a package it is in, belongs to the outside world."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in OUTSIDE for count in range(1, len(parts) + 1))


# --- the project -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


def test_every_module_has_a_place_and_imports_only_from_rows_below(tree: Tree) -> None:
    problems = layer_violations(tree)
    assert not problems, "\n" + "\n".join(problems)


def test_no_modules_import_each_other_in_a_circle(tree: Tree) -> None:
    assert find_cycle(tree) == []


def test_sans_io_modules_do_not_reach_the_outside_world(tree: Tree) -> None:
    problems = reach_violations(tree)
    assert not problems, "\n" + "\n".join(problems)


def test_a_package_holds_only_a_docstring(tree: Tree) -> None:
    for module in tree.files:
        if tree.is_package(module):
            for path in tree.files[module]:
                body = ast.parse(path.read_text("utf-8")).body
                assert [type(node) for node in body] == [ast.Expr], path


def test_the_tables_name_only_modules_that_exist(tree: Tree) -> None:
    modules = {tree.short(module) for module in tree.files}
    assert set(places(LAYERS)) - modules == set()
    assert SANS_IO - modules == set()


# --- the checker itself ----------------------------------------------------------------------

SMALL_LAYERS: Final = (("low", "beside"), ("middle",), ({"part": (("one",), ("two",))}, "top"))


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    """A package `shardd` with these files; folders become packages."""
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in [path for path in (root / PACKAGE).rglob("*") if path.is_dir()]:
        (folder / "__init__.py").write_text('"""A package."""\n')
    (root / PACKAGE / "__init__.py").write_text('"""The package."""\n')
    return Tree(root)


UPWARD: Final = "low imports middle, which is not on a row below it"


@pytest.mark.parametrize(
    ("files", "problems"),
    [
        ({"middle.py": "from shardd import low", "low.py": ""}, []),
        ({"middle.py": "", "low.py": "from shardd import middle"}, [UPWARD]),
        ({"middle.py": "", "low.py": "import shardd.middle as m"}, [UPWARD]),
        ({"middle.py": "", "low.py": "def f():\n    from .middle import g"}, [UPWARD]),
        ({"middle.py": "", "low.py": "", "low.pyi": "from shardd.middle import g"}, [UPWARD]),
        ({"middle.pyx": "", "low.pyx": "from shardd.middle cimport g, h"}, [UPWARD]),
        ({"middle.pyx": "", "low.pyx": "", "low.pxd": "from shardd cimport middle"}, [UPWARD]),
        ({"middle.pyx": "", "low.pyx": "cimport shardd.middle as m  # why"}, [UPWARD]),
        (
            {"middle.pyx": "", "low.pyx": "from shardd.middle cimport (\n    g,\n    h,\n)"},
            [UPWARD],
        ),
        ({"middle.pyx": "", "low.pyx": "from shardd.middle \\\n    import g"}, [UPWARD]),
        ({"middle.pyx": "", "low.pyx": "x = 1; from shardd.middle import g"}, [UPWARD]),
        ({"middle.pyx": "", "low.pyx": '"""\nfrom shardd.middle import g\n"""'}, []),
        ({"middle.pyx": "", "low.pyx": "# from shardd.middle import g"}, []),
        ({"middle.pyx": "", "low.pyx": 's = "#"; from shardd.middle import g'}, [UPWARD]),
        (
            {"low.py": "from shardd.beside import x", "beside.py": ""},
            ["low imports beside, which is not on a row below it"],
        ),
        ({"part/two.py": "from shardd.part import one", "part/one.py": ""}, []),
        (
            {"part/one.py": "from . import two", "part/two.py": ""},
            ["part.one imports part.two, which is not on a row below it"],
        ),
        (
            {"part/two.pyx": "from shardd.top cimport x", "top.pyx": ""},
            ["part.two imports top, which is not on a row below it"],
        ),
        (
            {"middle.py": "from shardd.part import one", "part/one.py": ""},
            ["middle imports part.one, which is not on a row below it"],
        ),
        ({"top.py": "from shardd.low import x", "low.py": ""}, []),
        (
            {"top.py": "from shardd.part import x", "part/one.py": ""},
            ["top takes a name through the package shardd.part"],
        ),
        ({"top.py": "import shardd.gone"}, ["top imports shardd.gone, which does not exist"]),
    ],
)
def test_checker_finds_planted_layer_violations(
    tmp_path: Path, files: dict[str, str], problems: list[str]
) -> None:
    assert layer_violations(plant(tmp_path, files), SMALL_LAYERS) == problems


def test_checker_says_what_to_do_with_a_module_without_a_place(tmp_path: Path) -> None:
    (problem,) = layer_violations(plant(tmp_path, {"newcomer.pyx": ""}), SMALL_LAYERS)
    assert problem.startswith("newcomer has no place: add it to LAYERS in test_layers.py")


def test_checker_allows_a_pair_of_siblings_in_one_direction_only(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"low.py": "from shardd.beside import x", "beside.py": ""})
    assert layer_violations(tree, SMALL_LAYERS, frozenset({("low", "beside")})) == []
    assert layer_violations(tree, SMALL_LAYERS, frozenset({("beside", "low")})) != []


def test_checker_finds_a_cycle_that_runs_through_a_cimport(tmp_path: Path) -> None:
    files = {
        "low.py": "from shardd import middle",
        "middle.pyx": "from shardd.top cimport x",
        "top.pyx": "",
        "top.pxd": "from shardd.low cimport y",
    }
    cycle = find_cycle(plant(tmp_path, files))
    assert set(cycle) == {"shardd.low", "shardd.middle", "shardd.top"}


@pytest.mark.parametrize(
    ("files", "problems"),
    [
        ({"low.py": "import collections"}, []),
        ({"low.py": "import asyncio.events"}, ["low -> asyncio.events"]),
        ({"low.pyx": "from libc.time cimport time"}, ["low -> libc.time", "low -> libc.time.time"]),
        ({"low.pyx": "from posix cimport time"}, ["low -> posix.time"]),
        ({"low.pyx": 'cdef extern from "sys/socket.h" nogil:\n    int x'}, ["low -> sys/socket.h"]),
        ({"low.pyx": "cdef extern from <time.h>:\n    int x"}, ["low -> time.h"]),
        (
            {"low.pxd": "from shardd.beside cimport x", "beside.py": "import zmq"},
            ["low -> beside -> zmq"],
        ),
        (
            {
                "low.py": "from shardd import beside",
                "beside.pyx": "from shardd.middle cimport x",
                "middle.pyx": "import random",
            },
            ["low -> beside -> middle -> random"],
        ),
    ],
)
def test_checker_follows_a_sans_io_module_to_the_outside_world(
    tmp_path: Path, files: dict[str, str], problems: list[str]
) -> None:
    assert reach_violations(plant(tmp_path, files), frozenset({"low"})) == problems
