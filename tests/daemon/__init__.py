"""Tests of settings, logs and the daemon."""
