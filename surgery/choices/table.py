"""Tables of methods: an entry is all that the rest of the house knows of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str:
        """What it is called in commands, reports and ``config.json``."""


Entry = TypeVar("Entry", bound=Named)


class Table(Mapping[str, Entry]):
    """Methods of one kind by name, in the order they are told in; others can be added.

    Args:
        entries: Those that come with the package.
    """

    def __init__(self, *entries: Entry) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, entry: Entry) -> None:
        """Add a method, of another package or of a test.

        Raises:
            ValueError: One of that name is there.
        """
        if entry.name in self._entries:
            raise ValueError(f"{entry.name} is registered already")
        self._entries[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Take a method out again."""
        del self._entries[name]

    @contextmanager
    def registered(self, entry: Entry) -> Iterator[Entry]:
        """Have a method while this is entered."""
        self.register(entry)
        try:
            yield entry
        finally:
            self.unregister(entry.name)


def later(home: str) -> Callable[..., Any]:
    """Return a function that imports ``module:name`` when it is called: torch takes seconds."""
    module, _, name = home.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
