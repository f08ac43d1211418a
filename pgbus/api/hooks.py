"""`bus.client.before_event_sent` and its like: the decorators by which hooks are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, overload

from pgbus.handlers.hooks import Hooks

H = TypeVar("H", bound=Callable[..., object])


class Register(Protocol):
    """Registers a hook: `register(function)`, or as a decorator `@register()`, also with `before_plugins=True`.

    The function may be async, or plain; it gets, by name, those of the moment's arguments that it has parameters for.
    Raises ConfigurationError for what cannot be called with that.
    """

    @overload
    def __call__(self, hook: None = None, *, before_plugins: bool = False) -> Callable[[H], H]: ...
    @overload
    def __call__(self, hook: H, *, before_plugins: bool = False) -> H: ...


class HookDecorators:
    """Where hooks are registered.

    All of them may have the parameters `client` and `bus`, and those that are named here.
    """

    hook_registry: Hooks

    @property
    def before_worker_start(self) -> Register:
        """Before a worker registers its listeners: what a hook raises keeps it from starting.

        The client also goes to a first parameter of any name, or the bus if it is named `bus`, or annotated so. A hook
        runs once, however many workers of the bus start in this process.
        """
        return self.hook_registry.before_worker_start.register

    @property
    def after_worker_stopped(self) -> Register:
        """When a worker that had started has stopped: drained, or failed. What a hook raises is logged.

        The client also goes to a first parameter of any name, or the bus if it is named `bus`, or annotated so.
        """
        return self.hook_registry.after_worker_stopped.register

    @property
    def on_start(self) -> Register:
        """Register a start hook; the same as `before_worker_start`."""
        return self.before_worker_start

    @property
    def on_stop(self) -> Register:
        """Register a stop hook; the same as `after_worker_stopped`."""
        return self.after_worker_stopped

    @property
    def before_event_sent(self) -> Register:
        """`event_message`: before an event goes into the outbox; its payload, headers and key may be changed."""
        return self.hook_registry.before_event_sent.register

    @property
    def after_event_sent(self) -> Register:
        """`event_message`: when an event is in the outbox; with `using`, its transaction is still open."""
        return self.hook_registry.after_event_sent.register

    @property
    def before_event_execution(self) -> Register:
        """`event_message`: before each attempt of a listener, which decodes what the hooks have left."""
        return self.hook_registry.before_event_execution.register

    @property
    def after_event_execution(self) -> Register:
        """`event_message`: when a listener has handled an event, and that is settled. What a hook raises is logged."""
        return self.hook_registry.after_event_execution.register

    @property
    def before_rpc_call(self) -> Register:
        """`rpc_message`: before a call is made; its arguments may be changed."""
        return self.hook_registry.before_rpc_call.register

    @property
    def after_rpc_call(self) -> Register:
        """`rpc_message`, `result_message`: when a call has brought a result, which may be changed, or has failed."""
        return self.hook_registry.after_rpc_call.register

    @property
    def before_rpc_execution(self) -> Register:
        """`rpc_message`: before a procedure runs, whose arguments are decoded from what the hooks have left."""
        return self.hook_registry.before_rpc_execution.register

    @property
    def after_rpc_execution(self) -> Register:
        """`rpc_message`, `result_message`: when a procedure has returned, or failed, and has not yet been answered.

        The result may be changed.
        """
        return self.hook_registry.after_rpc_execution.register
