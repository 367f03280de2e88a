"""Who takes part: one module for each, none of which is imported before its worker runs it."""

from __future__ import annotations

from functools import partial

from ...layers.peers.base import Competitor, Variant
from .base import Problem

__all__ = ["COMPETITORS", "Problem"]

Here = partial(Competitor, package=__package__)

COMPETITORS: tuple[Competitor, ...] = (
    Here("pytorch-float", "torch_float", ("torch",), (
        Variant("PyTorch float32", "float32"),
        Variant("PyTorch float32, channels last", "float32"),
    ), onednn=True),
    Here("pytorch-int8", "torch_int8", ("torch",), (
        Variant("PyTorch int8", "int8"),
    ), onednn=True),
    Here("openvino", "openvino_both", ("openvino", "onnx", "onnxruntime"), (
        Variant("OpenVINO float32", "float32"),
        Variant("OpenVINO int8", "int8"),
    ), onednn=True),
    Here("onnxruntime", "onnxruntime_both", ("onnxruntime", "onnx"), (
        Variant("ONNX Runtime float32", "float32"),
        Variant("ONNX Runtime int8", "int8"),
    )),
    Here("ncnn", "ncnn_both", ("ncnn",), (
        Variant("ncnn float32 Winograd", "float32"),
        Variant("ncnn int8", "int8"),
    ), amx=False),
    Here("mnn", "mnn_both", ("MNN", "onnx", "onnxruntime"), (
        Variant("MNN float32 Winograd", "float32"),
        Variant("MNN int8", "int8"),
        Variant("MNN int8 KL", "int8"),
    ), amx=False),
    Here("wqtvm", "wqtvm_networks", ("wqtvm",), tuple(
        Variant(f"wqtvm {name}", kind, ours=True) for name, kind in (
            ("F(4,3)", "int8"),
            ("F(4,3) g64", "int8"),
            ("F(4,3) calibrated", "int8"),
            ("F(4,3) g64 calibrated", "int8"),
            ("auto", "int8"),
            ("direct", "int8"),
            ("direct one group", "int8"),
            ("F(4,3), float16", "int8"),
            ("F(4,3) g64, float16", "int8"),
            ("direct image, float16", "int8"),
            ("float32", "float32"),
        )
    )),
)  # fmt: skip
