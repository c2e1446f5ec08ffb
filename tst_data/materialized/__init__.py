"""Runs written out as files: layout, writer and reader."""
