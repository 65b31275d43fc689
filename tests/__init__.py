"""Tests, mirroring the tree of msg/. A package, so that helpers import as tests.…"""
