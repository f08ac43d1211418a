"""What middleware knows of a call that is being executed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CallContext:
    """A call that a procedure is about to execute.

    `procedure` is its name, as `api.procedure`. `arguments` are decoded into its annotations, and may be changed.
    """

    procedure: str
    arguments: dict[str, object]
    call_id: UUID

    @property
    def api_name(self) -> str:
        """The procedure's name up to its last dot."""
        return self.procedure.rpartition(".")[0]

    @property
    def procedure_name(self) -> str:
        """The last word of the procedure's name."""
        return self.procedure.rpartition(".")[2]

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry `procedure` and `call_id`."""
        extra = {"procedure": self.procedure, "call_id": str(self.call_id)}
        return logging.LoggerAdapter(logging.getLogger(f"pgbus.procedure.{self.procedure}"), extra)
