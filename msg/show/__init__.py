"""Pictures and texts of what a broker says of itself: rows in, lines out. No trio, no I/O."""
