"""Calls: the caller's side and the server's side of a request and its response."""
