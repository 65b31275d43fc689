"""Fault scenarios: small stories in TOML, replayed on a simulated or on a real broker."""
