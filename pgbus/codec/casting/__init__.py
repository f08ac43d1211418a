"""From JSON values to what annotations ask for.

msgspec does it alone where it can. A type that it refuses, or that does not read what `forms` writes (named tuples,
classes with `__from_bus__`, unions of classes, ...), is taken apart here, down to parts that msgspec can do.
"""

from pgbus.codec.casting.makers import cast_if_it_fits
from pgbus.codec.casting.objects import Cast, cast_part
from pgbus.codec.casting.ownership import classes_in, has_from_bus, is_validated
from pgbus.codec.casting.places import explain, step_to
from pgbus.codec.casting.plan import caster, lines_parser, parser

__all__ = [
    "Cast",
    "cast_if_it_fits",
    "cast_part",
    "caster",
    "classes_in",
    "explain",
    "has_from_bus",
    "is_validated",
    "lines_parser",
    "parser",
    "step_to",
]
