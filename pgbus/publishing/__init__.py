"""Publishing: from an event to the INSERT into the outbox."""
