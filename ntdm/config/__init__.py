"""What a user may set, and what datasets and papers fix.

Dataclasses of the stages, the reading of TOML and overrides, named configurations, and the protocol's names
and numbers. No algorithm, and no file but TOML.
"""
