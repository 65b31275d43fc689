"""`trio-msg bench`: load on plain sockets, from processes of its own, and what came of it."""
