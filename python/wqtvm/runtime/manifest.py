"""The manifest of an artefact: what the folder has and needs, as JSON that no one can alter unseen.

The file must be, byte for byte, what ``Manifest.to_bytes`` writes; its last entry is the SHA-256 of
the entries before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import WinogradConfig
from ..errors import ArtefactCorruptError, ArtefactVersionError, WqtvmError
from ..quantization.plan import Plan
from ..tensor_spec import TensorSpec
from . import specs

SCHEMA_VERSION = 1
LIBRARY = "library.so"
WEIGHTS = "weights.safetensors"

_AGAIN = "export it again"
_HASH = "sha256"


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: its size in bytes, and its SHA-256 as 64 hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that an artefact says about itself.

    Attributes
    ----------
    versions : of the packages that it was made with.
    target : name of the target.
    machine : architecture of the library, as ``platform.machine()`` calls it.
    features : CPU flags that the code needs.
    plan, config : how each convolution is computed, and what was asked for.
    inputs, outputs : in the order of the network's.
    single_output : whether a call returns the output itself, not a tuple.
    parameters : in the order in which ``main`` of the library takes them, after the inputs.
    files : the library and the weights.
    """

    versions: Mapping[str, str]
    target: str
    machine: str
    features: tuple[str, ...]
    plan: Plan
    config: WinogradConfig
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    single_output: bool
    parameters: tuple[TensorSpec, ...]
    files: Mapping[str, FileRecord]

    def to_bytes(self) -> bytes:
        """Return the content of ``wqtvm.json``."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "versions": dict(self.versions),
            "target": {
                "name": self.target,
                "machine": self.machine,
                "features": list(self.features),
            },
            "config": dataclasses.asdict(self.config),
            "plan": json.loads(self.plan.to_json()),
            "inputs": [specs.to_json(spec) for spec in self.inputs],
            "outputs": [specs.to_json(spec) for spec in self.outputs],
            "single_output": self.single_output,
            "parameters": [specs.to_json(spec) for spec in self.parameters],
            "files": {name: dataclasses.asdict(file) for name, file in self.files.items()},
        }
        return _encode({**document, _HASH: hashlib.sha256(_encode(document)).hexdigest()})

    @classmethod
    def from_bytes(cls, content: bytes, path: object) -> Manifest:
        """Read what ``to_bytes`` wrote; ``path`` is what messages call it.

        Raises
        ------
        ArtefactVersionError
            If a newer wqtvm wrote it.
        ArtefactCorruptError
            If it is anything else than what ``to_bytes`` writes.
        """
        document = _decode(content, path)
        version = document.get("schema_version")
        if type(version) is not int or version < 1:
            raise ArtefactCorruptError(
                f"{path}: schema_version is {version!r}; it must be a number: {_AGAIN}"
            )
        if version > SCHEMA_VERSION:
            raise ArtefactVersionError(
                f"{path}: schema_version is {version}, this wqtvm reads up to {SCHEMA_VERSION}; "
                "upgrade wqtvm"
            )
        _check_unaltered(content, document, path)
        try:
            return _from_document(document)
        except (KeyError, TypeError, ValueError, WqtvmError) as error:
            raise ArtefactCorruptError(
                f"{path}: it is no manifest ({type(error).__name__}: {error}); {_AGAIN}"
            ) from error


def _encode(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _decode(content: bytes, path: object) -> dict[str, Any]:
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ArtefactCorruptError(f"{path}: it is no JSON ({error}); {_AGAIN}") from error
    if not isinstance(document, dict):
        raise ArtefactCorruptError(
            f"{path}: it is a {type(document).__name__}, not an object; {_AGAIN}"
        )
    return document


def _check_unaltered(content: bytes, document: dict[str, Any], path: object) -> None:
    hashed = {name: value for name, value in document.items() if name != _HASH}
    try:
        found = hashlib.sha256(_encode(hashed)).hexdigest()
        unaltered = document.get(_HASH) == found and _encode(document) == content
    except (ValueError, RecursionError):  # text that is no Unicode, NaN
        unaltered = False
    if not unaltered:
        raise ArtefactCorruptError(f"{path}: it was altered after it was written; {_AGAIN}")


def _from_document(document: Mapping[str, Any]) -> Manifest:
    target = document["target"]
    config: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in document["config"].items()
    }
    files = {name: FileRecord(**file) for name, file in document["files"].items()}
    if set(files) != {LIBRARY, WEIGHTS}:
        raise ValueError(f"its files are {', '.join(files)}, not {LIBRARY} and {WEIGHTS}")
    inputs, outputs, parameters = (
        tuple(specs.from_json(value) for value in document[field])
        for field in ("inputs", "outputs", "parameters")
    )
    return Manifest(
        versions={str(name): str(value) for name, value in document["versions"].items()},
        target=str(target["name"]),
        machine=str(target["machine"]),
        features=tuple(str(flag) for flag in target["features"]),
        plan=Plan.from_json(json.dumps(document["plan"])),
        config=WinogradConfig(**config),
        inputs=inputs,
        outputs=outputs,
        single_output=bool(document["single_output"]),
        parameters=parameters,
        files=files,
    )
