"""Runtimes that answer, one file each, all behind `backend.Backend`."""
