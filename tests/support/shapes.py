"""Event classes of every library."""

from __future__ import annotations

from dataclasses import dataclass

import attrs
import msgspec
import pydantic

import pgbus


@pgbus.event("shapes.dataclass")
@dataclass
class AsDataclass:
    n: int


@pgbus.event("shapes.struct")
class AsStruct(msgspec.Struct):
    n: int


@pgbus.event("shapes.attrs")
@attrs.define
class AsAttrs:
    n: int


@pgbus.event("shapes.pydantic")
class AsModel(pydantic.BaseModel):
    n: int


@pgbus.event("animals.animal")
@dataclass
class Animal:
    name: str


@pgbus.event("animals.dog")
@dataclass
class Dog(Animal):
    trick: str = ""
