"""Who this process is among those that train together (torchrun, accelerate launch)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from surgery.errors import UsageError

if TYPE_CHECKING:
    from surgery.training.request import Request

LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """One process among several.

    Attributes:
        rank: Which one; the first writes everything.
        count: How many there are.
    """

    rank: int
    count: int

    @classmethod
    def here(cls) -> Processes:
        """Read what the launcher set.

        Raises:
            UsageError: It set something that is no number.
        """
        try:
            return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        except ValueError as error:
            raise UsageError(
                "RANK and WORLD_SIZE of the environment are no numbers",
                found=error,
                hint="start with torchrun or accelerate launch, or unset them",
            ) from error

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def wait(self, request: Request) -> None:
        """Wait until every process is here; at once where there is one."""
        if self.count > 1:
            from accelerate import PartialState

            # The first use of it joins the others; the Trainer finds it joined. They may wait for
            # the first to prepare a large base; where one fails, the launcher ends the others.
            on_cpu = request.settings.options.device == "cpu"
            PartialState(cpu=on_cpu, timeout=LONGEST_WAIT).wait_for_everyone()
