"""A typed function for each named statement; a module has the name of the `.sql` file that it calls.

A function takes the `Store` that runs it, and keyword arguments; it returns numbers, strings, or frozen values, so that
no other package reads a row.
"""
