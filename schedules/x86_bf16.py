"""AVX-512 VNNI with BF16: sixteen sums of two products of bfloat16 an instruction (``vdpbf16ps``).

All but these products is that of ``x86_vnni``.
"""

from __future__ import annotations

from dataclasses import replace

from . import x86_vnni
from .vdpbf16 import FUNCTIONS, dot_intrinsic

# The registers of the direct convolution of bytes with one step an image: 24 x 1 to 6 x 4 sums,
# with the vectors of U and a broadcast of V. A panel of U is twice as many bytes.
_BFLOAT16 = replace(
    x86_vnni.KERNELS.direct, dot_reduce=2, intrinsic=dot_intrinsic(), functions=FUNCTIONS
)

KERNELS = replace(x86_vnni.KERNELS, bfloat16=_BFLOAT16)
