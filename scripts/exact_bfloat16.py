"""Evaluates in bfloat16 at a bearable speed on CPUs that have no units for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class ExactBfloat16(torch.overrides.TorchFunctionMode):
    """bfloat16 products on a CPU without such units: computed in float32, the result rounded.

    That is what hardware with bfloat16 units and float32 accumulation computes, a hundred times as fast as torch's
    own fallback.
    """

    PRODUCTS = (F.linear, F.scaled_dot_product_attention, F.conv3d, F.conv2d)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.PRODUCTS and args[0].dtype == torch.bfloat16 and args[0].device.type == "cpu":
            wide = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
            options = {
                k: a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for k, a in kwargs.items()
            }
            return func(*wide, **options).to(torch.bfloat16)
        return func(*args, **kwargs)
