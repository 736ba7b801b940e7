"""Teacher labels for deterministic views, so that the teacher runs once."""
