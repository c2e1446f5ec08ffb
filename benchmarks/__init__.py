"""Measurements and the demo: nothing here is imported by the packages."""
