"""A stand-in for a GPU: tensors that say they lie on one, and are computed on the CPU.

What CUDA refuses is refused: an operator over tensors of both devices (but for single numbers, copies, and indices on
the CPU), random numbers of a generator of the other device, and `numpy()` without `cpu()`. A command that ends under it
as it does on the CPU has put every tensor where the others are. Kernels, precision, memory and speed of a real GPU are
not seen. Tensors of this kind exist in the thread that entered `stand_in` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

PLACE = torch.device("cuda", 0)
# What the rest of torch asks of CUDA before a tensor is made.
CUDA = {"_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1,
        "current_device": lambda: 0, "set_device": lambda _: None, "is_bf16_supported": lambda: True,
        "get_device_name": lambda _: "stand-in", "manual_seed_all": lambda _: None}
COPIES = {"aten::copy_", "aten::_to_copy"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
WITHOUT_NUMBERS = {"aten::cat", "aten::stack"}
# Of the fused attentions each device has its own; the plain one is the same.
MATH_ATTENTION = 0
# Operators that autocast runs in half precision.
PRODUCTS = {"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear",
            "aten::matmul"}
_product_dtypes: set[torch.dtype] = set()


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on the GPU; its values are in `inner`, on the CPU.

    With `known` the autocast of CUDA takes it as well, and no gradient can be computed: torch then asks for a driver.
    """

    known = False
    inner: torch.Tensor

    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        """Make a tensor without memory, of the shape, strides and type of `inner`."""
        with no_dispatch():
            shape = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, shape, dispatch_device=cls.known, device_for_backend_keys=PLACE)

    def __init__(self, inner: torch.Tensor) -> None:
        """Keep the values."""
        self.inner = inner

    device = property(lambda self: PLACE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @property
    def data(self) -> torch.Tensor:
        """The tensor without its history; a net's weights are replaced by setting it."""
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Elsewhere) -> None:
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def tolist(self) -> Any:
        """Return the values; torch's own refuses every class but its own."""
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Compute on the CPU."""
        return _computed(func, args, dict(kwargs or {}))


class _Everywhere(TorchDispatchMode):
    """Also operators without such a tensor, that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        return _computed(func, args, dict(kwargs or {}))


def _computed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    if name == "prim::device":
        return PLACE if isinstance(args[0], Elsewhere) else args[0].device
    if name == "aten::_fused_sdp_choice":
        return MATH_ATTENTION
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = any(isinstance(one, Elsewhere) for one in tensors)
    _check_together(func, name, args, tensors)
    device = kwargs.get("device")
    # A tensor without memory is `meta` to torch's core, which hands that on where no device was named.
    wanted = there if device is None else torch.device(device).type in ("cuda", "meta")
    if name == "aten::copy_":
        wanted = isinstance(args[0], Elsewhere)
    if wanted and kwargs.get("generator") is not None and kwargs["generator"].device.type == "cpu":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {name}")
    inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda one: one.inner, (args, kwargs))
    inner_kwargs.pop("pin_memory", None)
    inner_kwargs |= {} if device is None else {"device": torch.device("cpu")}
    if wanted and name in PRODUCTS:
        found = _compute_product(func, inner_args, inner_kwargs)
    else:
        found = func(*inner_args, **inner_kwargs)
    if not wanted:
        return args[0] if name == "aten::copy_" else found
    found = tree_map_only(torch.Tensor, Elsewhere, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if there and name != "aten::_to_copy" else found


def _compute_product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Computes a product of half precision as a GPU does: summed in float32 and then rounded, on every processor.

    A CPU without instructions for bf16 would take minutes for a small network.
    """
    dtype = next(one.dtype for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor))
    _product_dtypes.add(dtype)
    if dtype not in (torch.bfloat16, torch.float16):
        return func(*args, **kwargs)
    args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs))
    return func(*args, **kwargs).to(dtype)


def _check_together(func: Any, name: str, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    here = [one for one in tensors if not isinstance(one, Elsewhere) and one.device.type == "cpu"]
    if len(here) == len(tensors) or not here or name in COPIES:
        return
    stray = [one for one in here if one.ndim > 0 or name in WITHOUT_NUMBERS]
    first = tensors[0]
    if not isinstance(first, Elsewhere) and (func._schema.is_mutable or name in INDEXED):
        stray = [first]
    elif name in INDEXED:
        stray = [one for one in args[2:3] if one.ndim > 0 and not isinstance(one, Elsewhere)]
    if stray:
        told = ", ".join(f"{'cuda' if isinstance(one, Elsewhere) else 'cpu'} {tuple(one.shape)}" for one in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}({told})")


@contextmanager
def stand_in(*, autocast: bool = False) -> Iterator[set[torch.dtype]]:
    """Lets there be a GPU `cuda:0`; with `autocast` half precision is what it would be there, without gradients.

    Yields the types in which convolutions and matrix products have been computed so far.
    """
    def enter(self: Any) -> None:
        self.guard = torch.no_grad()
        self.guard.__enter__()

    def leave(self: Any, *how: Any) -> None:
        self.guard.__exit__(*how)

    lifted = torch._C._only_lift_cpu_tensors()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **CUDA))
        stack.enter_context(mock.patch("stages.flow.device._may_have_cuda", lambda: True))
        stack.enter_context(mock.patch.object(Elsewhere, "known", autocast))
        # Views of such tensors can't be made in torch's inference mode, and cuDNN has operators of its own.
        stack.enter_context(mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled(),
                       warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._ensureCUDADeviceGuardSet()
        stack.enter_context(_Everywhere())
        _product_dtypes.clear()
        yield _product_dtypes
