"""Exit codes: those of sysexits.h, the same for the daemon and for the command line."""

OK = 0
NEGATIVE = 1  # it worked, and the answer is no: nothing to get, not alive
USAGE = 64  # the command line is wrong
DATA = 65  # what was read is not what it should be: another store's directory, a bad body
UNAVAILABLE = 69  # no broker there; or no such port to listen on
SOFTWARE = 70  # a bug of ours; the log holds the traceback
CANT_CREATE = 73  # the data directory or the port file
IO_ERROR = 74  # the disk failed: nothing after it was acked
TEMPORARY = 75  # try again later: another broker holds the directory, a limit is reached
NO_PERMISSION = 77
CONFIG = 78
INTERRUPTED = 130  # Ctrl-C, as shells count it
TERMINATED = 143  # SIGTERM, likewise
PIPE_CLOSED = 141  # whoever read our output has left: SIGPIPE, as shells count it
