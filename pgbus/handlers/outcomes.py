"""Outcomes of one attempt, and the pure rule that turns an exception into one."""

from __future__ import annotations

import functools
import random
import traceback as traceback_module
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from pgbus import errors
from pgbus.config.options import check_options, number, whole_number

MAX_ERROR_LENGTH = 4_000
MAX_TRACEBACK_LENGTH = 20_000
MAX_FINGERPRINT_LENGTH = 255
# A hundred years, in seconds: PostgreSQL could not add much more to its clock.
MAX_DELAY = 36_525 * 86_400.0


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of an attempt whose handler returned."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt, `delay` seconds after this one is settled."""

    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class Dead:
    """No further attempt: the event becomes a dead letter of this listener."""

    error: str
    traceback: str | None = None
    fingerprint: str | None = None


Outcome: TypeAlias = Done | Retry | Dead
DONE = Done()


_POLICY = {
    "max_attempts": whole_number("attempts", 1),
    "base_delay": number("a number of seconds, at least 0", 0),
    "factor": number("a number, at least 1", 1),
    "max_delay": number("a number of seconds, at least 0", 0),
    "jitter": number("a number between 0 and 1", 0, 1),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of attempts at an event, and the delays between them.

    The delay before attempt n + 1 is `min(max_delay, base_delay * factor ** (n - 1))` seconds, minus a random part of
    up to `jitter` (0 to 1), so that events that failed together are not retried together ("full jitter" is jitter=1).
    Defaults: 10 attempts, 1 s doubling up to an hour, jitter 0.5.
    """

    max_attempts: int = 10
    base_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        check_options("retry", _POLICY, {name: getattr(self, name) for name in _POLICY})

    def delay(self, attempt: int, *, chance: float | None = None) -> float:
        """Seconds to wait after `attempt` (1 for the first) has failed; `chance` (0 to 1) replaces the random draw."""
        draw = random.random() if chance is None else chance  # noqa: S311 - jitter is not a secret
        try:
            delay = min(self.max_delay, self.base_delay * self.factor ** (attempt - 1))
        except OverflowError:
            delay = self.max_delay
        return min(MAX_DELAY, delay * (1 - self.jitter * draw))


def decide(error: BaseException | None, *, attempt: int, policy: RetryPolicy) -> Outcome:
    """Return the outcome of an attempt that returned (`error` is None) or raised `error`."""
    match error:
        case None:
            return DONE
        case errors.Dead():
            return Dead(error=clip(error.reason, MAX_ERROR_LENGTH), fingerprint=fingerprint_of(error))
        case errors.UnhandledEventError():
            return Dead(error=describe(error), fingerprint=fingerprint_of(error))
        case _ if attempt >= policy.max_attempts:
            return Dead(error=describe(error), fingerprint=fingerprint_of(error), traceback=format_traceback(error))
        case errors.Retry():
            delay = policy.delay(attempt) if error.after is None else min(MAX_DELAY, max(0.0, error.after))
            return Retry(delay=delay, error=clip(error.reason, MAX_ERROR_LENGTH))
        case _:
            return Retry(delay=policy.delay(attempt), error=describe(error))


def fingerprint_of(error: BaseException) -> str:
    """The exception's type, and the function of the application where it was raised: `ValueError at shop.mail:send`.

    Failures with the same one mostly have the same cause, so that people act on all of them at once. It has no line
    number, so that it outlives an edit. The application's is the innermost frame that is neither of the standard
    library nor of an installed package; without one, it is the handler's. At most 255 characters.
    """
    frames = [frame for frame, _ in traceback_module.walk_tb(handlers_part(error.__traceback__))]
    own = [
        frame
        for frame in frames
        if not frame.f_code.co_filename.startswith(_installed())
        and not frame.f_globals.get("__name__", "").startswith("pgbus.")
    ]
    places = [f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}" for frame in own[-1:] or frames[:1]]
    return clip(" at ".join([type(error).__name__, *places]), MAX_FINGERPRINT_LENGTH)


@functools.cache
def _installed() -> tuple[str, ...]:
    """The prefixes of the files of the standard library and of installed packages."""
    import sysconfig  # reads a table of how Python was built: 5 ms, and only a failure asks for it

    return ("<frozen ", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def describe(error: BaseException) -> str:
    """The type and the text of an error, cut off where they get too long."""
    return clip(f"{type(error).__name__}: {error_text(error)}", MAX_ERROR_LENGTH)


def error_text(error: BaseException) -> str:
    """Return the error's text, or a placeholder if its `__str__` raises."""
    try:
        return str(error)
    except Exception as failure:  # its __str__ is code of other people
        return f"(its text cannot be had: {type(failure).__name__})"


def format_traceback(error: BaseException) -> str:
    """Return the traceback as a string that PostgreSQL can store: at most MAX_TRACEBACK_LENGTH characters of its
    end.
    """
    trace = handlers_part(error.__traceback__)
    text = "".join(traceback_module.format_exception(type(error), error, trace))
    # The end of a traceback says most.
    return _storable(text)[-MAX_TRACEBACK_LENGTH:]


def handlers_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the handler on: how pgbus came to call it tells its author nothing."""
    # Some handlers are pgbus's own: the demo's, and a relay's.
    return _below(trace, "pgbus.") or _below(trace, "pgbus.", but=("pgbus.contrib.", "pgbus.demo.")) or trace


def _below(trace: TracebackType | None, package: str, *, but: tuple[str, ...] = ()) -> TracebackType | None:
    """The traceback without the first frames that are of this package `but` not of those."""
    part = trace
    while part is not None:
        module = part.tb_frame.f_globals.get("__name__", "")
        if not module.startswith(package) or module.startswith(but):
            break
        part = part.tb_next
    return part


def clip(text: str, length: int) -> str:
    """The text as one that PostgreSQL stores, at most `length` characters long."""
    text = _storable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def in_ascii(text: str) -> str:
    """The text as one that a database in any encoding stores."""
    return text.encode("ascii", "backslashreplace").decode()


def _storable(text: str) -> str:
    # PostgreSQL's text holds no NUL, and lone surrogates cannot be encoded.
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
