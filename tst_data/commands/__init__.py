"""The commands of `tst-data`: arguments in, tables and JSON out. They hold no rules of their own."""
