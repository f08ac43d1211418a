"""A Python prompt without IPython: with `await` and with completion; and the completion that IPython gets too."""

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

# The name of the file that a script's tracebacks show.
SCRIPT = "<stdin>"


class Prompt(code.InteractiveConsole):
    """Reads Python from a terminal. What awaits runs on the runner's loop; all else where no loop runs.

    So calls that block work, which they would not on a loop's own thread. Between two inputs the loop stands still.
    """

    def __init__(self, names: dict[str, Any], runner: asyncio.Runner, completion: Completion) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._runner = runner
        _bind_tab(names, completion)

    def runcode(self, code: types.CodeType) -> None:
        """Run an input that was compiled; an exception is shown, and the prompt goes on."""
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
    """Run Python as if its statements were typed at the prompt, so those that await and those that block both work."""
    compiler = codeop.Compile()  # which keeps in mind what was imported from `__future__`
    compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for statement in ast.parse(source, SCRIPT).body:
        _run(compiler(ast.Module([statement], type_ignores=[]), SCRIPT, "exec"), names, runner)  # type: ignore[arg-type]


def _run(code: types.CodeType, names: dict[str, Any], runner: asyncio.Runner) -> None:
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(types.FunctionType(code, names)())
    else:
        exec(code, names)  # noqa: S102 - it is what the user wrote


class Completion:
    """What a text that begins with the name of a bus may become: `bus.au`, `bus.auth.`; of all else nothing.

    `known` are the full names of other services' events and procedures; this process's own come from the bus. Nothing
    is called or read but names.
    """

    def __init__(self, names: Mapping[str, Any], known: Iterable[str]) -> None:
        self._names = names
        self._known = [name.split(".") for name in known]

    def __call__(self, text: str) -> list[str]:
        """The texts, in order."""
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
        elif not found:  # all of a name is there, or it is one that nobody knows
            found.update(dir(pgbus.BusPath))
        return found


def is_direct(trace: types.TracebackType | None) -> bool:
    """Whether no code but the prompt's own line, pgbus and what runs both stands in a traceback."""
    places = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
    return sum(not place.startswith(_machinery()) for place in places) <= 1


def describe(error: BaseException) -> str:
    """What an error of pgbus says, after the traceback that a remote one came with."""
    text = f"{type(error).__name__}: {error}\n"
    return f"{error.remote_traceback.rstrip()}\n\n{text}" if isinstance(error, pgbus.RemoteError) else text


def _machinery() -> tuple[str, ...]:
    """Where the code lies that runs an input, or what it calls."""
    packages = [sys.modules[name].__path__[0] for name in ("pgbus", "IPython") if name in sys.modules]
    return (*packages, sysconfig.get_path("stdlib"))


class _Completer(rlcompleter.Completer):
    """As in any Python prompt, but of a bus's paths, which can all be called, it does not say so by a parenthesis."""

    def __init__(self, names: dict[str, Any], completion: Completion) -> None:
        super().__init__(names)
        self._completion = completion

    def attr_matches(self, text: str) -> list[str]:
        return self._completion(text) or super().attr_matches(text)


def _bind_tab(names: dict[str, Any], completion: Completion) -> None:
    try:
        import readline
    except ImportError:  # a Python that was built without it
        return
    readline.set_completer(_Completer(names, completion).complete)
    is_editline = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
