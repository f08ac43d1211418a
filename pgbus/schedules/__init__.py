"""Schedules: the rules, and the runner that fires what is due."""
