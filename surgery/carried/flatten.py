"""One file out of a flat package: of every module what is reached, in an order that runs."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable
from functools import cache

from surgery.carried.pieces import External, Module, Piece, Wanted, load_modules
from surgery.errors import SurgeryError

WIDTH = 100
RULE = "# " + "-" * (WIDTH - 2)


@cache
def flatten(package: str, root: tuple[str, str], wanted: Wanted, header: str, footer: str) -> str:
    """Return the source of one module that needs nothing of its package.

    Args:
        package: A package whose modules import each other as ``from .module import name``.
        root: Module and name of what the file is for.
        wanted: What else is to come along, and what to leave behind.
        header: The file's docstring.
        footer: Statements behind everything else; they may use ``root`` and ``transformers``.

    Raises:
        SurgeryError: Two modules call different things by one name, or one cannot be taken apart.
    """
    modules = load_modules(package, [root[0]], wanted)
    kept, externals = _reached(modules, root)
    externals["transformers"] = External("transformers")
    _check_names([name for piece in kept for name in piece.names], externals)
    sections = [f'"""{header.rstrip()}\n"""', "from __future__ import annotations"]
    sections += [_imports(externals)]
    for module in modules.values():
        pieces = [piece for piece in module.pieces if piece in kept]
        if pieces:
            sections.append(_section(module, pieces) + "\n")
    sections.append(f"{RULE}\n\n{footer}")
    return "\n\n".join(sections) + "\n"


def _reached(
    modules: dict[str, Module], root: tuple[str, str]
) -> tuple[set[Piece], dict[str, External]]:
    """Return the pieces that the root needs, and what they import from other packages."""
    kept: set[Piece] = set()
    externals: dict[str, External] = {}
    open_ends = [root]
    while open_ends:
        home, name = open_ends.pop()
        module = modules[home]
        piece = next((piece for piece in module.pieces if name in piece.names), None)
        if piece is None:
            raise _clash(f"{home}.{name}", "no such name there")
        if piece in kept:
            continue
        kept.add(piece)
        bound = {name for each in module.pieces for name in each.names}
        for used in sorted(piece.uses):
            if used in bound:
                open_ends.append((home, used))
            elif used in module.siblings:
                open_ends.append(module.siblings[used])
            elif used in module.externals:
                found = module.externals[used]
                if externals.setdefault(used, found) != found:
                    raise _clash(used, f"{found} in {home}, {externals[used]} elsewhere")
    return kept, externals


def _check_names(names: Iterable[str], externals: dict[str, External]) -> None:
    """Require that in one file every name still means what it means in its module."""
    taken = {*dir(builtins), *externals}
    for name in names:
        if name in taken:
            raise _clash(name, "two meanings")
        taken.add(name)


def _clash(name: str, found: str) -> SurgeryError:
    return SurgeryError(
        "Modules of this package's runtime cannot stand in one file",
        where=name,
        found=found,
        hint="this is a bug worth reporting",
    )


def _section(module: Module, pieces: list[Piece]) -> str:
    """Return the kept pieces of a module under its docstring, as comments."""
    about = [f"# {line}".rstrip() for line in module.docstring.splitlines()]
    text = "\n".join([RULE, *about])
    before: Piece | None = None
    for piece in pieces:
        block = piece.block or (before is not None and before.block)
        close = before is not None and piece.first == before.last + 1
        text += "\n" * (3 if block else 1 if close else 2) + module.text(piece)
        before = piece
    return text


def _imports(externals: dict[str, External]) -> str:
    """Return the imports, the standard library's first."""
    groups: dict[bool, list[str]] = {False: [], True: []}
    together: dict[str, list[str]] = {}
    for bound, one in sorted(externals.items()):
        foreign = one.module.partition(".")[0] not in sys.stdlib_module_names
        if one.name is None:
            alias = "" if bound == one.module else f" as {bound}"
            groups[foreign].append(f"import {one.module}{alias}")
            groups[foreign].sort()
        elif bound != one.name:
            together[f"{one.module} {bound}"] = [f"{one.name} as {bound}"]
        else:
            together.setdefault(one.module, []).append(one.name)
    for key, names in sorted(together.items()):
        module = key.partition(" ")[0]
        foreign = module.partition(".")[0] not in sys.stdlib_module_names
        groups[foreign].append(_from(module, sorted(names, key=_by_kind)))
    return "\n\n".join("\n".join(lines) for lines in groups.values() if lines)


def _by_kind(name: str) -> tuple[int, str]:
    """Order names as formatters do: constants, classes, the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])
