"""Tests of the scenarios themselves: world, checker, engines, report."""
