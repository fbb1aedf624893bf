"""Toy recordings whose labels show in movement, and the contract every method keeps, to be inherited.

A package with a method of its own tests it in three lines::

    class TestSmallest(MethodContract):
        def method(self):
            return Smallest()
"""

from ethoray.testing.contract import MethodContract
from ethoray.testing.scripts import script
from ethoray.testing.toy import (
    TOY_SKELETON,
    toy_batch,
    toy_card,
    toy_dataset,
    toy_film_dataset,
    toy_films,
    toy_recordings,
    toy_spec,
    toy_stream,
)

__all__ = [
    "TOY_SKELETON",
    "MethodContract",
    "script",
    "toy_batch",
    "toy_card",
    "toy_dataset",
    "toy_film_dataset",
    "toy_films",
    "toy_recordings",
    "toy_spec",
    "toy_stream",
]
