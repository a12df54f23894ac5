"""Formats of data sets, one file each; `data.detect` chooses among them."""
