"""How a handler is called: its signature, its context, middleware and hooks."""
