"""Public checks that any net or calculator can inherit."""
