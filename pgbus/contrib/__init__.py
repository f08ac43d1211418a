"""Integrations with frameworks, each in its own module, which imports the framework."""
