"""What models and data are called in what travels with a result: no path of this machine."""

from __future__ import annotations

from pathlib import Path


def data_name(place: str | Path) -> str:
    """Return what to call data in a report: the last two names of its path."""
    return "/".join(Path(place).resolve().parts[1:][-2:])


def given_path(place: str | Path) -> str:
    """Return a path for a command that others see: as given below the current folder, else cut."""
    return Path(place).as_posix() if _is_below(Path(place)) else data_name(place)


def model_name(asked: str | Path, name: str | None = None) -> str:
    """Return how a command that others see names a model: ``./whisper-base`` for one on disk.

    A bare ``whisper-base`` would be the hub's.

    Args:
        asked: What the user called it.
        name: What it is called where that is no path; default ``asked``.
    """
    path = Path(asked).expanduser()
    if not path.exists():
        return name or str(asked)
    return f"./{path.as_posix() if _is_below(path) else path.resolve().name}"


def _is_below(path: Path) -> bool:
    return bool(path.parts) and not path.is_absolute() and not {"..", "~"} & {*path.parts}
