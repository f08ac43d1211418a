"""Every event and procedure that is known: from this process's code, from files, or from the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgbus.database.statements.schemas import Kind
from pgbus.schema.declared import Code
from pgbus.schema.documents import Declaration, Documents, to_documents
from pgbus.schema.keywords import Schema
from pgbus.schema.stored import Key, StoredSchemas


class Known:
    """The schemas that this process knows. Its code has priority over files, and files over the database."""

    def __init__(self, *, code: Code, stored: StoredSchemas) -> None:
        self.code = code
        self.stored = stored
        self._files: dict[Key, Schema] = {}

    def add(self, declared: Iterable[Declaration]) -> None:
        """Add the declarations of a file."""
        self._files.update({(one.kind, one.name): one.schema for one in declared})

    def find(self, name: str, *, kinds: Sequence[Kind]) -> Schema | None:
        """The schema of a topic or procedure; the first of these kinds that has one."""
        # The database is asked last: it may have to be read first.
        for look in (self._find_here, lambda kind, name: self.stored.here().get((kind, name))):
            for kind in kinds:
                if (found := look(kind, name)) is not None:
                    return found
        return None

    def _find_here(self, kind: Kind, name: str) -> Schema | None:
        declared = self.code.find(kind, name)
        return self._files.get((kind, name)) if declared is None else declared.schema

    def find_foreign(self, kind: Kind, name: str) -> Schema | None:
        """The schema that another service declares, by a file or as it was read last."""
        return self._files.get((kind, name)) or (self.stored.seen or {}).get((kind, name))

    @property
    def names(self) -> set[Key]:
        """The kind and name of everything that is known."""
        return {*self._declared_names(), *self._files, *self.stored.here()}

    @property
    def names_seen(self) -> set[Key]:
        """`names`, by what was read last; nothing is read."""
        return {*self._declared_names(), *self.foreign_names_seen}

    @property
    def foreign_names_seen(self) -> set[Key]:
        """The part of `names_seen` that is of files and the database."""
        return {*self._files, *(self.stored.seen or {})}

    def _declared_names(self) -> set[Key]:
        return {(one.kind, one.name) for one in self.code.declare()}

    @property
    def documents(self) -> Documents:
        """All known schemas, as documents by API."""
        others = {**self.stored.here(), **self._files}
        return to_documents([*(Declaration(*key, schema) for key, schema in others.items()), *self.code.declare()])

    def next_words(self, prefix: Sequence[str]) -> list[str]:
        """Return the words that may follow a path, from the files and the schemas that were read so far."""
        length = len(prefix)
        found = (name.split(".") for _, name in self.foreign_names_seen)
        return sorted({words[length] for words in found if len(words) > max(1, length) and words[:length] == [*prefix]})
