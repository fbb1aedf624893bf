"""Blocks that two methods use or more."""
