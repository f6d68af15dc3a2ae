"""Signatures of commands, spliced from the library's dataclasses, where options are spelled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field
from enum import Enum, StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from surgery.choices.option import Option, flags_of, options_of
from surgery.errors import UsageError

Body = Callable[..., None]


def fraction(text: str) -> float:
    """Parse ``25%`` or ``0.25``.

    Raises:
        typer.BadParameter: It is neither.
    """
    value = share(text)
    if value > 1:
        raise typer.BadParameter(f"{text!r} is not between 0% and 100% (a quarter: 25% or 0.25)")
    return value


def share(text: str) -> float:
    """Parse ``150%`` or ``1.5``: a share that may exceed the whole.

    Raises:
        typer.BadParameter: It is neither, or negative.
    """
    words = text.strip()
    try:
        value = float(words.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no fraction: write 25% or 0.25") from None
    if words.endswith("%"):
        value /= 100
    if not 0 <= value < float("inf"):
        raise typer.BadParameter(f"{text!r} is not between 0% and 100% (a quarter: 25% or 0.25)")
    return value


def spliced(
    *kinds: type, after: str = "out", without: Collection[str] = ()
) -> Callable[[Body], Body]:
    """Give a command the options of dataclasses; it takes their values by keyword.

    A parameter of its own may be annotated with an :class:`Option`, too.

    Args:
        kinds: The dataclasses; of two fields of one name the first counts.
        after: The command's own parameter that their options stand behind.
        without: Options that are left out, by their names on the command line.
    """
    return lambda body: _Spliced(body, kinds, after, without)


class _Spliced:
    def __init__(
        self, body: Body, kinds: tuple[type, ...], after: str, without: Collection[str]
    ) -> None:
        self.__name__, self.__doc__ = body.__name__, body.__doc__
        self.__annotations__: dict[str, Any] = {}  # all of them are in the signature
        self._body, self._kinds, self._after, self._without = body, kinds, after, without

    def __call__(self, **given: Any) -> None:
        self._body(**{n: v.value if isinstance(v, Enum) else v for n, v in given.items()})

    @property
    def __signature__(self) -> Signature:
        # Made anew for every run: a method that was registered is among the choices.
        found: dict[str, Parameter] = {}
        own = signature(self._body, eval_str=True).parameters
        for name, parameter in own.items():
            if parameter.kind is not Parameter.VAR_KEYWORD:
                found[name] = _own(parameter)
            if name == self._after:
                for kind in self._kinds:
                    for each, told in options_of(kind):
                        if _name(each) not in {*self._without, *own, *found}:
                            found[_name(each)] = _parameter(kind, each, told)
        return Signature(list(found.values()))


def values(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given for the fields of a dataclass, by their names and of their types.

    Raises:
        UsageError: A list of numbers holds something else.
    """
    found: dict[str, Any] = {}
    for each, told in options_of(kind):
        value = given.get(_name(each))
        if value is None:
            continue
        if told.inverted:
            value = not value
        elif told.reads == "path":
            value = str(value)
        elif told.reads == "paths":
            value = tuple(map(str, value))
        elif told.reads == "words":
            value = tuple(word.strip().lower() for word in value.split(",") if word.strip())
        elif told.reads == "numbers":
            try:
                value = tuple(map(int, value.split(",")))
            except ValueError as error:
                message = f"{flags_of(each)[0]} takes numbers with commas between them"
                raise UsageError(message, found=value) from error
        found[each.name] = value
    return found


def given_flags(kind: type, given: dict[str, Any]) -> dict[str, str]:
    """Return how the fields that were given, and not their defaults, are spelled, by name."""
    return {
        each.name: flags_of(each)[0].partition("/")[0]
        for each, told in options_of(kind)
        if (value := given.get(_name(each))) is not None
        and (told.told or value != (False if told.inverted else each.default))
    }


def _name(each: Field[Any]) -> str:
    return flags_of(each)[0].partition("/")[0].strip("-").replace("-", "_")


def _own(parameter: Parameter) -> Parameter:
    """Return a parameter of the command itself, an :class:`Option` turned into typer's."""
    said = getattr(parameter.annotation, "__metadata__", (None,))[0]
    if isinstance(said, Option):
        kind, flag = get_args(parameter.annotation)[0], "--" + parameter.name.replace("_", "-")
        return _typed(parameter.name, kind, said, said.flags or (flag,), parameter.default)
    return parameter.replace(kind=Parameter.KEYWORD_ONLY)


def _parameter(kind: type, each: Field[Any], told: Option) -> Parameter:
    home = next(one for one in kind.__mro__ if each.name in vars(one).get("__annotations__", ()))
    annotation = eval(str(each.type), vars(sys.modules[home.__module__]))  # noqa: S307  # our own text
    default = each.default
    if default is MISSING:
        default = Parameter.empty
    elif told.inverted:
        default = False
    elif told.told or told.reads in ("words", "numbers", "paths"):
        default = None
    return _typed(_name(each), annotation, told, flags_of(each), default)


def _typed(
    name: str, annotation: Any, told: Option, flags: tuple[str, ...], default: Any
) -> Parameter:
    """Return a parameter as typer reads it."""
    kinds = [one for one in get_args(annotation) if one is not NoneType] or [annotation]
    kind: Any = kinds[0] if NoneType in get_args(annotation) else annotation
    among = told.among() if callable(told.among) else told.among
    if get_origin(kind) is Literal:
        among = get_args(kind)
    parser = {"fraction": fraction, "share": share}.get(told.reads)
    if among:
        kind = _choices(name.title().replace("_", ""), among)
        default = kind(default) if isinstance(default, str) else default
    elif told.reads == "path":
        kind = Path
    elif told.reads == "paths":
        kind = list[Path]
    elif told.reads in ("words", "numbers"):
        kind = str
    if parser and isinstance(default, float):
        default = f"{100 * default:g}%"  # typer gives defaults to the parser, too
    info = typer.Option(
        *flags,
        help=told.help() if callable(told.help) else told.help,
        min=told.least,
        max=told.most,
        parser=parser,
        metavar=told.metavar or ("F" if parser else None),
        rich_help_panel=told.panel,
    )
    shape = kind | None if default is None else kind
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[shape, info]
    )


def _choices(name: str, among: Collection[str]) -> Any:
    made: Any = StrEnum
    return made(name, {each: each for each in among})
