"""The command line: arguments to calls, frames to lines; no rules of the broker."""
