"""Pieces of asyncio that the slices share: tasks, threads, the portal for blocking callers."""
