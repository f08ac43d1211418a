"""A Python prompt without IPython: with `await` and with completion; and the completion that IPython gets too."""

from __future__ import annotations

import ast
import asyncio
import code
import codeop
import inspect
import rlcompleter
import types
from collections.abc import Mapping
from typing import Any

import pgbus

# The name of the file that a script's tracebacks show.
SCRIPT = "<stdin>"


class Prompt(code.InteractiveConsole):
    """Reads Python from a terminal. What awaits runs on the runner's loop; all else where no loop runs.

    So calls that block work, which they would not on a loop's own thread. Between two inputs the loop stands still.
    """

    def __init__(self, names: dict[str, Any], runner: asyncio.Runner) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._runner = runner
        _bind_tab(names)

    def runcode(self, code: types.CodeType) -> None:
        """Run an input that was compiled; an exception is shown, and the prompt goes on."""
        if not code.co_flags & inspect.CO_COROUTINE:
            super().runcode(code)
            return
        try:
            _run(code, self.locals, self._runner)
        except (SystemExit, KeyboardInterrupt):
            raise
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


def complete(text: str, names: Mapping[str, Any]) -> list[str]:
    """What `text`, which begins with the path of a bus, may become: `bus.au`, `bus.auth.`; of all else nothing.

    Only paths are walked: nothing is called, and no attribute of anything else is read.
    """
    *path, begun = text.split(".")
    target = names.get(path[0]) if path else None
    for word in path[1:]:
        if not isinstance(target, pgbus.Bus | pgbus.BusPath) or word.startswith("_"):
            return []
        target = getattr(target, word, None)
    if not isinstance(target, pgbus.Bus | pgbus.BusPath):
        return []
    hidden = "" if begun.startswith("_") else "_"
    words = (word for word in sorted(set(dir(target))) if not (hidden and word.startswith(hidden)))
    return [".".join((*path, word)) for word in words if word.startswith(begun)]


class _Completer(rlcompleter.Completer):
    """As in any Python prompt, but of a bus's paths, which can all be called, it does not say so by a parenthesis."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names)
        self._names = names

    def attr_matches(self, text: str) -> list[str]:
        return complete(text, self._names) or super().attr_matches(text)


def _bind_tab(names: dict[str, Any]) -> None:
    try:
        import readline
    except ImportError:  # a Python that was built without it
        return
    readline.set_completer(_Completer(names).complete)
    is_editline = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
