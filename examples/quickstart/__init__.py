"""The service of the tutorial (docs/tutorial), which is read and run there file by file."""
