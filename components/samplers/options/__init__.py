"""Options of every part of a sampler, without torch: a room that plans, listings and editors can stay in."""

from typing import Any

from components.plugins import Family
from components.samplers.options.correctors import CORRECTORS
from components.samplers.options.inputs import INPUTS
from components.samplers.options.orders import ORDERS
from components.samplers.options.schedules import SCHEDULES
from components.samplers.options.search import SEARCHES

PARTS: dict[str, Family[Any]] = {
    "schedule": SCHEDULES,
    "unmask": ORDERS,
    "corrector": CORRECTORS,
    "inputs": INPUTS,
    "search": SEARCHES,
}
"""Families of parts, by the field of a sampler that holds one."""

__all__ = ["CORRECTORS", "INPUTS", "ORDERS", "PARTS", "SCHEDULES", "SEARCHES"]
