"""What a worker does with events: sequence, claim, handle, settle, keep house."""
