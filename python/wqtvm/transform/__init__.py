"""Passes over Relax and TIR, one a file; each docstring says what must run before and after."""
