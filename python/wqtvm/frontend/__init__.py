"""Import of PyTorch models into Relax."""

from ..tensor_spec import TensorSpec
from .model import ImportedModel
from .names import layer_name, name_layers
from .torch_import import from_torch

__all__ = ["ImportedModel", "TensorSpec", "from_torch", "layer_name", "name_layers"]
