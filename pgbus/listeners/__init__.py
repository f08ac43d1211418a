"""Listeners: claim deliveries, call the handler, settle what came of it."""
