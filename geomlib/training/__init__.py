"""The Lightning command line, callbacks and schedules."""
