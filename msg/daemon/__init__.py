"""The process around the broker: settings in, logs, signals and exit codes out."""
