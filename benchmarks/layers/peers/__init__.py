"""Who takes part: one module for each, none of which is imported before its worker runs it."""

from __future__ import annotations

from .base import Competitor, Problem, Setting, Variant, choose

__all__ = [
    "COMPETITORS",
    "Competitor",
    "Problem",
    "Setting",
    "Variant",
    "chosen",
    "competitor",
    "variants",
]

WINOGRAD_F6 = 64 / (36 * 9)  # products of F(6,3) beside the direct convolution's

F2 = {"products": 4 / 9, "weight_growth": 16 / 9, "transforms": ("winograd", 2)}
F4 = {"products": 1 / 4, "weight_growth": 4, "transforms": ("winograd", 4)}
F6 = {"products": WINOGRAD_F6, "transforms": ("winograd", 6)}

U8 = {"takes": "u8", "gives": "u8"}
F16 = {"takes": "f16", "gives": "f16"}

COMPETITORS: tuple[Competitor, ...] = (
    Competitor("pytorch-int8", "torch_int8", ("torch",), (
        Variant("PyTorch int8", "int8", **U8),
        Variant("PyTorch int8, float out", "int8", takes="u8", gives="f32"),
    ), onednn=True),
    Competitor("pytorch-float", "torch_float", ("torch",), (
        Variant("PyTorch float32", "float32"),
        Variant("PyTorch bfloat16", "bfloat16", takes="bf16", gives="bf16"),
    ), onednn=True),
    Competitor("openvino", "openvino_int8", ("openvino", "onnx"), (
        Variant("OpenVINO int8", "int8", **U8),
    ), onednn=True),
    Competitor("onnxruntime", "onnxruntime_int8", ("onnxruntime", "onnx"), (
        Variant("ONNX Runtime int8", "int8", **U8),
    )),
    Competitor("litert", "litert_int8", ("ai-edge-litert",), (
        Variant("LiteRT XNNPACK int8", "int8", takes="s8", gives="s8"),
    )),
    Competitor("ncnn", "ncnn_both", ("ncnn",), (
        Variant("ncnn int8", "int8"),
        Variant("ncnn float32 Winograd", "float32", **F6),
    ), amx=False),
    Competitor("mnn", "mnn_both", ("MNN", "onnx"), (
        Variant("MNN int8", "int8"),
        Variant("MNN float32 Winograd", "float32", **F6),
    ), amx=False),
    Competitor("wqtvm", "wqtvm_layers", ("wqtvm",), (
        Variant("wqtvm direct", "int8", ours=True),
        Variant("wqtvm direct filter", "int8", ours=True),
        Variant("wqtvm direct one group", "int8", ours=True),
        Variant("wqtvm direct image", "int8", ours=True),
        Variant("wqtvm F(2,3)", "int8", **F2, ours=True),
        Variant("wqtvm F(4,3)", "int8", **F4, ours=True),
        Variant("wqtvm F(4,3) g64", "int8", **F4, ours=True),
        Variant("wqtvm F(4,3) g128", "int8", **F4, ours=True),
        Variant("wqtvm F(4,3) g256", "int8", **F4, ours=True),
        Variant("wqtvm F(4,3) one group", "int8", **F4, ours=True),
        Variant("wqtvm F(6,3) +-i", "int8", products=1 / 4, weight_growth=9, ours=True,
                transforms=("winograd", 6, "complex")),
        Variant("wqtvm SFC-6", "int8", products=100 / 324, weight_growth=100 / 9, ours=True,
                transforms=("sfc", 6)),
        Variant("wqtvm F(4,3) full", "int8", **F4, ours=True),
        Variant("wqtvm float32", "float32", ours=True),
        Variant("wqtvm direct bfloat16", "bfloat16", ours=True),
        Variant("wqtvm direct image, float16", "int8", **F16, ours=True),
        Variant("wqtvm F(4,3), float16", "int8", **F16, **F4, ours=True),
        *(
            Variant(f"wqtvm F(4,3) {group}, float16", "int8", **F16, **F4, ours=True)
            for group in ("g64", "g128", "g256", "one group")
        ),
    )),
)  # fmt: skip


def competitor(name: str) -> Competitor:
    """Return a competitor by its name."""
    return next(each for each in COMPETITORS if each.name == name)


def chosen(names: list[str]) -> list[tuple[Competitor, list[Variant]]]:
    """Choose among all by names of competitors and starts of names of variants, see ``choose``."""
    return choose(COMPETITORS, names)


def variants() -> dict[str, Variant]:
    """All variants by name, in the order of the tables."""
    return {variant.name: variant for each in COMPETITORS for variant in each.variants}
