"""Tests of the client: most of them under trio (in virtual time) and under asyncio."""
