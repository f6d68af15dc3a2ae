"""In which order neurons can go, and how cautious what real input shows of them is taken."""

from __future__ import annotations

from typing import Literal, get_args

Order = Literal["surgeon", "magnitude", "activation", "leverage", "variance"]
ORDERS: tuple[Order, ...] = get_args(Order)

RIDGE = 0.01
"""ε of a SmolLM2-135M's blocks that were cut alike; what is best differs by layer."""
