"""What other frameworks need, each in a module of its own that imports the framework."""
