"""Passes over Relax and TIR, one a file; each docstring says what must run before and after."""

from __future__ import annotations

import tvm_ffi

from .. import errors

# An error that a pass raises goes through TVM's C++, which gives back a RuntimeError unless it
# knows the class by name.
for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.WqtvmError):
        tvm_ffi.register_error(_error.__name__, _error)
