"""Find the definitions that a command depends on, and which have changed since a commit.

A definition is a function, a class or a constant of a module. The dependencies of a command are
found in the source: the definitions of its own module, every definition that those name, and so on.
Two versions of a definition are equal if their code is equal, whatever their comments and
docstrings say.
"""

import ast
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("core", "numpy_nets", "torch_nets")  # of purenets, beside it in the tree
FOLDERS = ("scripts", "benchmarks", "tests")
BODY = ""  # the name of what a module runs on import, beside its definitions
COMPOUND = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Read = Callable[[str], str | None]  # the text of a file by its path, None where there is none


class Definition(NamedTuple):
    """A name of a module, by the path of its file."""

    path: str
    name: str


class Parsed(NamedTuple):
    """A module: its definitions, and its imported names as (module, name in it or "")."""

    nodes: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str]]


class Tree:
    """The source of the project, as `read` gives it.

    Args:
        read: returns the text of a file by its path.
    """

    def __init__(self, read: Read):
        self.read = cache(read)
        self.parse = cache(self._parse)
        self.code_of = cache(self._code_of)
        self.path_of = cache(self._path_of)
        self.named_in = cache(lambda definition: [*self._named_in(definition)])
        self.used_by = cache(self._used_by)

    def _parse(self, path: str) -> Parsed | None:
        text = self.read(path)
        return None if text is None else _definitions(ast.parse(text), package_of(path))

    def _code_of(self, definition: Definition) -> str | None:
        """Return the code of a definition without docstrings; None if it does not exist."""
        parsed = self.parse(definition.path)
        nodes = parsed.nodes.get(definition.name) if parsed else None
        if nodes is None:
            return "" if parsed and definition.name == BODY else None
        return "\n".join(ast.dump(without_docstrings(node)) for node in nodes)

    def _path_of(self, module: str) -> str | None:
        """Return the path of a module of the project; None for any other module."""
        parts = module.split(".")
        if parts[0] == "purenets" and len(parts) > 1 and parts[1] in PACKAGES:
            parts = parts[1:]
        elif parts[0] not in (*FOLDERS, "purenets"):
            return None
        base = "/".join(parts)
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if self.read(path) is not None:
                return path
        return None

    def _used_by(self, path: str) -> set[Definition]:
        """Return the definitions that the module at `path` depends on, including its own."""
        found: set[Definition] = set()
        waiting = [*self._all_of(path)]
        while waiting:
            definition = waiting.pop()
            if definition not in found:
                found.add(definition)
                waiting += self.named_in(definition)
        return found

    def _all_of(self, path: str) -> Iterator[Definition]:
        """Yield the definitions of a module, but for the list of the names that it shows."""
        parsed = self.parse(path)
        yield Definition(path, BODY)
        names = parsed.nodes if parsed else ()
        yield from (Definition(path, name) for name in names if name != "__all__")

    def _named_in(self, definition: Definition) -> Iterator[Definition]:
        """Yield the definitions of the project that a definition names."""
        parsed = self.parse(definition.path)
        local: dict[str, tuple[str, str]] = {}
        if parsed is None:  # there is no such file any more
            return
        nodes = parsed.nodes.get(definition.name, [])
        for node in nodes:
            for part in ast.walk(node):
                local |= dict(_imported(part, package_of(definition.path)))
        known = parsed.imports | local
        yield Definition(definition.path, BODY)
        for node in nodes:
            for base, attributes in _names(node):
                if base in known:
                    yield from self._resolved(*known[base], attributes)
                elif base in parsed.nodes:
                    yield Definition(definition.path, base)
        for module, _ in local.values():
            yield from self._bodies(module)

    def _bodies(self, module: str) -> Iterator[Definition]:
        """Yield what the import of a module runs: its body, and those of its packages."""
        parts = module.split(".")
        for i in range(len(parts)):
            path = self.path_of(".".join(parts[: i + 1]))
            if path:
                yield Definition(path, BODY)

    def _resolved(
        self, module: str, name: str, attributes: tuple[str, ...]
    ) -> Iterator[Definition]:
        """Yield the definition of `name` in a module, traced through modules that re-export it."""
        yield from self._bodies(module)
        path = self.path_of(module)
        if path is None:
            return
        if not name:
            if attributes:
                yield from self._resolved(module, attributes[0], attributes[1:])
            else:  # the module as a value: anything of it may be used
                yield from self._all_of(path)
            return
        parsed = self.parse(path)
        if name in parsed.nodes:
            yield Definition(path, name)
        elif parsed.imports.get(name, (module, name)) != (module, name):
            yield from self._resolved(*parsed.imports[name], attributes)
        elif self.path_of(f"{module}.{name}"):
            yield from self._resolved(f"{module}.{name}", "", attributes)


def working_tree(path: str) -> str | None:
    """Return the text of a file as it is now."""
    file = ROOT / path
    return file.read_text() if file.is_file() else None


def at_commit(commit: str) -> Read:
    """Return a function that reads files as of a commit, by their current paths."""
    old_path = moves_since(commit)
    listed = _git("ls-tree", "-r", "--format=%(objectname) %(path)", commit).decode()
    files = dict(reversed(line.split(" ", 1)) for line in listed.splitlines())
    wanted = {path: blob for path, blob in files.items() if path.endswith(".py")}
    answer = _git("cat-file", "--batch", given="\n".join(wanted.values()).encode())
    texts, at = {}, 0
    for path in wanted:
        end = answer.index(b"\n", at)
        size = int(answer[at:end].split()[-1])
        texts[path] = answer[end + 1 : end + 1 + size].decode()
        at = end + size + 2
    return lambda path: texts.get(old_path.get(path, path))


def unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")


def moves_since(commit: str) -> dict[str, str]:
    """Return the path at a commit of each file that has been moved since, by its current path."""
    listed = _git("diff", "-M", "--diff-filter=R", "--name-status", commit, "HEAD").decode()
    moves = (line.split("\t")[1:] for line in listed.splitlines())
    return {new: old for old, new in moves}


def _git(*arguments: str, given: bytes | None = None) -> bytes:
    done = subprocess.run(
        ["git", "-C", ROOT, *arguments], input=given, capture_output=True, check=True
    )
    return done.stdout


def changed(used: set[Definition], now: Tree, then: Tree) -> list[Definition]:
    """Return the definitions whose code differs between two trees, sorted."""
    edited = {path for path, _ in used if now.read(path) != then.read(path)}
    return sorted(d for d in used if d.path in edited and now.code_of(d) != then.code_of(d))


# --- source ---------------------------------------------------------------------------------------


def package_of(path: str) -> str:
    """Return the name of the package that a file's relative imports start from."""
    parts = path.removesuffix(".py").split("/")[:-1]
    return ".".join((["purenets"] if parts and parts[0] in PACKAGES else []) + parts)


def _definitions(tree: ast.Module, package: str) -> Parsed:
    nodes: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for statement in tree.body:
        found = dict(_imported(statement, package))
        imports |= found
        names = [BODY] if not found else []
        if isinstance(statement, COMPOUND):
            names = [statement.name]
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            names = list(_assigned(statement)) or [BODY]
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            names = []  # the docstring
        for name in names:
            nodes.setdefault(name, []).append(statement)
    return Parsed(nodes, imports)


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that an assignment sets; none for `a.b = c`."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                yield part.id


def _imported(statement: ast.AST, package: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the names that an import brings, with their modules and names there."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield (
                (alias.asname or alias.name.split(".")[0]),
                (
                    alias.name if alias.asname else alias.name.split(".")[0],
                    "",
                ),
            )
    elif isinstance(statement, ast.ImportFrom):
        up = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = [*up] if statement.level else []
        module = ".".join([*base, *([statement.module] if statement.module else [])])
        for alias in statement.names:
            yield (alias.asname or alias.name), (module, alias.name)


def _names(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names that code reads, each with the attributes that follow it: a.b.c."""
    inner: set[int] = set()
    for part in ast.walk(node):
        if id(part) in inner or not isinstance(part, ast.Attribute | ast.Name):
            continue
        attributes: list[str] = []
        while isinstance(part, ast.Attribute):
            attributes.insert(0, part.attr)
            part = part.value
            inner.add(id(part))
        if isinstance(part, ast.Name):
            yield part.id, tuple(attributes)


def without_docstrings(node: ast.stmt) -> ast.stmt:
    """Remove the docstrings from a statement of code; return the statement."""
    for part in ast.walk(node):
        if isinstance(part, COMPOUND):
            first = part.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                part.body = part.body[1:] or [ast.Pass()]
    return node
