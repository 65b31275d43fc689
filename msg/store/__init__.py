"""The embedded store: segmented, append-only JSON-lines files, and their recovery."""
