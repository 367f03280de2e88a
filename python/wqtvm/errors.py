"""Every error that wqtvm raises on purpose, on one page.

A message names the layer or file, the offending value, and the remedy, in this order.
"""

from __future__ import annotations


class WqtvmError(Exception):
    """Base class of all errors below: catch it to catch whatever wqtvm says no to."""


class ConfigError(WqtvmError, ValueError):
    """A configuration value is out of its range, or a name pattern matches no layer."""


class AlgorithmError(WqtvmError, ValueError):
    """The matrices of a fast convolution do not compute a convolution."""


class UnsupportedOperatorError(WqtvmError):
    """The network has an operator that cannot be imported."""


class UnsupportedDtypeError(WqtvmError):
    """An input or a weight has a dtype that cannot be imported."""


class ExportError(WqtvmError):
    """``torch.export`` cannot capture the model; the cause is attached."""


class DynamicShapeError(WqtvmError):
    """The network has a shape that is not known at compile time."""


class NotEligibleError(WqtvmError):
    """A convolution was asked to use an algorithm that cannot compute it."""


class NonFiniteError(WqtvmError, ValueError):
    """A weight is NaN or infinite."""


class InputMismatchError(WqtvmError, ValueError):
    """An input has another count, shape or dtype than the network was compiled for."""


class UnknownTargetError(WqtvmError, ValueError):
    """No target of this name exists."""


class NativeLibraryError(WqtvmError, ImportError):
    """The compiled part of wqtvm is missing, or was built for another machine."""


class TargetNotRunnableError(WqtvmError):
    """This CPU, or its operating system, lacks what the compiled code needs."""


class TilePermissionError(TargetNotRunnableError):
    """The kernel refuses the use of AMX tile registers."""


class UnscheduledOperatorError(WqtvmError):
    """An operator has no schedule for the target."""


class MissingDependencyError(WqtvmError):
    """A program or an optional package that this step needs is not installed."""


class AlreadyExistsError(WqtvmError):
    """The output is there already, and overwriting was not asked for."""


class TuningError(WqtvmError):
    """A layer cannot be tuned: its default kernel does not build, run, or compute the reference."""


class TuningDatabaseError(WqtvmError):
    """A tuning database cannot be read or written, or is none."""


class ArtefactError(WqtvmError):
    """Base class of what can be wrong with an artefact folder."""


class ArtefactMissingFileError(ArtefactError):
    """The folder, or a file that its manifest names, is not there."""


class ArtefactCorruptError(ArtefactError):
    """A file is truncated or altered: its size or hash is not the manifest's."""


class ArtefactVersionError(ArtefactError):
    """The artefact was written by a newer wqtvm."""
