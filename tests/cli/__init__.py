"""Tests of the command line and of the plain client beneath it."""
