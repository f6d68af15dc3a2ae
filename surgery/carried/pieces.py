"""The modules of a flat package as pieces of text: what each binds, what it uses, where it lies.

Pieces are lines of the source, never printed syntax trees, so that comments and layout stay.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.resources import files

from surgery.errors import SurgeryError


@dataclass(frozen=True)
class External:
    """One name from another package: ``from module import name``, or ``import module``."""

    module: str
    name: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What is to be taken of a package.

    Attributes:
        lazy: Modules that functions import when they are called, and that are to come along.
        keys: Keys that the tables keep.
        table: Keys of a table: a dict at the top level with one entry for each of these.
        refusal: Module and name of the error raised in place of a lazy import that stays behind.
    """

    lazy: frozenset[str]
    keys: frozenset[str]
    table: frozenset[str]
    refusal: tuple[str, str]


@dataclass(eq=False)  # like pieces of two modules are still two
class Piece:
    """A top-level statement, with the comments above it and the docstring below.

    Attributes:
        names: What it binds.
        uses: The names it mentions, its own local ones too.
        first: Its first line, from 1.
        last: Its last line.
        block: Whether it is a function or a class.
        edits: By line, what stands there instead; ``None`` where nothing does.
    """

    names: tuple[str, ...]
    uses: frozenset[str]
    first: int
    last: int
    block: bool
    edits: dict[int, str | None] = field(default_factory=dict)


class Module:
    """One module, cut into pieces.

    Args:
        package: The package it is of.
        name: Its name there.
        wanted: What is to be taken.

    Attributes:
        docstring: Its docstring.
        pieces: Its pieces, in order.
        siblings: By name, the module and the name there that it imports from the package.
        externals: By name, what it imports from elsewhere.

    Raises:
        SurgeryError: It does at its top level what cannot be moved elsewhere.
    """

    def __init__(self, package: str, name: str, wanted: Wanted) -> None:
        self.name = name
        text = (files(package) / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.docstring = ast.get_docstring(tree) or ""
        self.pieces: list[Piece] = []
        self.siblings: dict[str, tuple[str, str]] = {}
        self.externals: dict[str, External] = {}
        self._lines = text.splitlines()
        self._wanted = wanted
        for statement in tree.body[1 if self.docstring else 0 :]:
            self._read(statement)

    def text(self, piece: Piece) -> str:
        """Return a piece as it will stand in the file."""
        numbers = range(piece.first, piece.last + 1)
        lines = (piece.edits.get(number, self._lines[number - 1]) for number in numbers)
        return "\n".join(line for line in lines if line is not None)

    @property
    def needs(self) -> set[str]:
        """Modules whose names its top level may use."""
        return {module for module, _ in self.siblings.values()} - self._wanted.lazy

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._import(statement)
        elif _is_docstring(statement) and self.pieces:
            self.pieces[-1].last = statement.end_lineno or statement.lineno
        else:
            names = tuple(_bound(statement))
            if not names:
                raise self._unmovable(statement)
            edits = self._cut_table(statement) | self._resolve_lazy(statement)
            self.pieces.append(
                Piece(
                    names,
                    frozenset(n.id for n in ast.walk(statement) if isinstance(n, ast.Name)),
                    self._begin(statement),
                    statement.end_lineno or statement.lineno,
                    isinstance(statement, (ast.FunctionDef, ast.ClassDef)),
                    edits,
                )
            )

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            bound = alias.asname or alias.name
            if isinstance(statement, ast.Import):
                if not alias.asname and "." in alias.name:
                    raise self._unmovable(statement)
                self.externals[bound] = External(alias.name)
            elif statement.level == 0:
                if statement.module != "__future__":
                    self.externals[bound] = External(str(statement.module), alias.name)
            elif statement.level > 1 or not statement.module or bound != alias.name:
                raise self._unmovable(statement)  # one name a thing, in the one file
            else:
                self.siblings[bound] = statement.module, alias.name

    def _cut_table(self, statement: ast.stmt) -> dict[int, str | None]:
        """Take out of a table the entries that are not wanted."""
        table = getattr(statement, "value", None)
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not isinstance(
            table, ast.Dict
        ):
            return {}
        keys = [getattr(key, "value", None) for key in table.keys]
        if len(keys) != len(self._wanted.table) or {*keys} != self._wanted.table:
            return {}
        edits: dict[int, str | None] = {}
        kept = [key in self._wanted.keys for key in keys]
        for key, value, keep in zip(table.keys, table.values, kept, strict=True):
            if key is not None and not keep:
                edits |= dict.fromkeys(range(key.lineno, (value.end_lineno or 0) + 1))
        if not any(kept):
            edits[table.lineno] = self._lines[table.lineno - 1] + "}"
            edits[table.end_lineno or 0] = None
        table.keys = [key for key, keep in zip(table.keys, kept, strict=True) if keep]
        table.values = [value for value, keep in zip(table.values, kept, strict=True) if keep]
        return edits

    def _resolve_lazy(self, statement: ast.stmt) -> dict[int, str | None]:
        """Drop the imports inside functions whose module comes along; refuse behind the others."""
        edits: dict[int, str | None] = {}
        for body in list(_bodies(statement)):
            for index, inner in enumerate(body):
                if not isinstance(inner, ast.ImportFrom) or inner.level == 0:
                    continue
                if inner.module in self._wanted.lazy:
                    self._import(inner)
                    end = inner.end_lineno or inner.lineno
                    blank = not self._lines[end].strip()  # the line behind it
                    edits |= dict.fromkeys(range(inner.lineno, end + 1 + blank))
                    continue
                end = body[-1].end_lineno or body[-1].lineno
                edits |= dict.fromkeys(range(inner.lineno, end + 1))
                module, error = self._wanted.refusal
                said = f"This file was written for a checkpoint that needs no {inner.module}."
                refusal = f'raise {error}("{said}")'
                edits[inner.lineno] = " " * inner.col_offset + refusal
                body[index:] = ast.parse(refusal).body
                self.siblings.setdefault(error, (module, error))
                break
        return edits

    def _begin(self, statement: ast.stmt) -> int:
        """Return where a statement begins, its decorators and the comments above it included."""
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(each.lineno for each in decorators)])
        while first > 1 and self._lines[first - 2].startswith("#"):
            first -= 1
        return first

    def _unmovable(self, statement: ast.stmt) -> SurgeryError:
        return SurgeryError(
            "A statement of this package's runtime cannot travel inside a checkpoint",
            where=f"{self.name}.py, line {statement.lineno}",
            found=ast.unparse(statement)[:80],
            expected="imports under their own names, functions, classes and assignments",
        )


def load_modules(package: str, roots: Collection[str], wanted: Wanted) -> dict[str, Module]:
    """Read modules and all that they import, those first that others need."""
    found: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name not in found:
            module = Module(package, name, wanted)
            for needed in sorted(module.needs):
                visit(needed)
            found[name] = module

    for name in sorted({*roots, *wanted.lazy}, key=lambda name: (name in roots, name)):
        visit(name)
    return found


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, ast.AnnAssign):
        yield from _names(statement.target)
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from _names(target)


def _names(target: ast.expr) -> Iterator[str]:
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(statement):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
