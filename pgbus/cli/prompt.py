"""A Python prompt without IPython, with `await` and with completion; IPython uses the same completion."""

from __future__ import annotations

import ast
import asyncio
import code
import codeop
import inspect
import rlcompleter
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterable, Mapping
from typing import Any

import pgbus

# The file name in tracebacks of a script.
SCRIPT = "<stdin>"


class Prompt(code.InteractiveConsole):
    """Reads Python from a terminal. Inputs with `await` run on the runner's loop; others run outside of any loop.

    So blocking calls work, which would be refused on the thread of a running loop. Between two inputs the loop does not
    run.
    """

    def __init__(self, names: dict[str, Any], runner: asyncio.Runner, completion: Completion) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._runner = runner
        _bind_tab(names, completion)

    def runcode(self, code: types.CodeType) -> None:
        """Run a compiled input; an exception is shown, and the prompt continues."""
        try:
            _run(code, self.locals, self._runner)
        except (SystemExit, KeyboardInterrupt):
            raise
        except pgbus.PgbusError as error:
            if is_direct(error.__traceback__):
                self.write(describe(error))
            else:
                self.showtraceback()
        except BaseException:
            self.showtraceback()


def run_script(source: str, names: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run a script as if its statements were typed at the prompt, so `await` and blocking calls both work."""
    compiler = codeop.Compile()  # which remembers imports from `__future__`
    compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for statement in ast.parse(source, SCRIPT).body:
        _run(compiler(ast.Module([statement], type_ignores=[]), SCRIPT, "exec"), names, runner)  # type: ignore[arg-type]


def _run(code: types.CodeType, names: dict[str, Any], runner: asyncio.Runner) -> None:
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(types.FunctionType(code, names)())
    else:
        exec(code, names)  # noqa: S102 - it is what the user wrote


class Completion:
    """Completes text that begins with the name of a bus, such as `bus.au` or `bus.auth.`, and no other text.

    `known` are the full names of other services' events and procedures; this process's own come from the bus. It reads
    names only, and calls nothing.
    """

    def __init__(self, names: Mapping[str, Any], known: Iterable[str]) -> None:
        self._names = names
        self._known = [name.split(".") for name in known]

    def __call__(self, text: str) -> list[str]:
        """Return the completions of the text, sorted."""
        root, *path = text.split(".")
        bus = self._names.get(root)
        if not path or not isinstance(bus, pgbus.Bus):
            return []
        *before, begun = path
        words = (word for word in self._next_words(bus, before) if begun.startswith("_") or not word.startswith("_"))
        return [".".join((root, *before, word)) for word in sorted(words) if word.startswith(begun)]

    def _next_words(self, bus: pgbus.Bus, before: list[str]) -> set[str]:
        place = len(before)
        found = {words[place] for words in self._known if words[:place] == before and len(words) > place}
        found.update(bus.client.api_registry.next_words(before))
        if not before:
            found.update(dir(bus))
        elif not found:  # the name is complete, or unknown
            found.update(dir(pgbus.BusPath))
        return found


def is_direct(trace: types.TracebackType | None) -> bool:
    """Whether a traceback has only the prompt's line, pgbus and the code that runs both."""
    places = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
    return sum(not place.startswith(_machinery()) for place in places) <= 1


def describe(error: BaseException) -> str:
    """Return the line of an error of pgbus; a remote error's traceback precedes it."""
    text = f"{type(error).__name__}: {error}\n"
    return f"{error.remote_traceback.rstrip()}\n\n{text}" if isinstance(error, pgbus.RemoteError) else text


def _machinery() -> tuple[str, ...]:
    """Return the paths of the code that runs an input."""
    packages = [sys.modules[name].__path__[0] for name in ("pgbus", "IPython") if name in sys.modules]
    return (*packages, sysconfig.get_path("stdlib"))


class _Completer(rlcompleter.Completer):
    """Complete a name as Python's prompt does, but without a parenthesis after the paths of a bus, which are all
    callable.
    """

    def __init__(self, names: dict[str, Any], completion: Completion) -> None:
        super().__init__(names)
        self._completion = completion

    def attr_matches(self, text: str) -> list[str]:
        return self._completion(text) or super().attr_matches(text)


def _bind_tab(names: dict[str, Any], completion: Completion) -> None:
    try:
        import readline
    except ImportError:  # this Python was built without readline
        return
    readline.set_completer(_Completer(names, completion).complete)
    is_editline = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
