"""A simulated GPU: tensors that report to be on a GPU but are computed on the CPU.

Operations that fail with CUDA fail here too: operators on tensors of both devices (except scalars, copies, and indices
on the CPU), random numbers from a generator of the other device, and `numpy()` without `cpu()`. So a command that gives
the same result under the simulation has placed all its tensors on the right device. Kernels, precision, memory and
speed of a real GPU are not tested. Such tensors exist only in the thread that entered `simulate_gpu`.
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

CUDA_DEVICE = torch.device("cuda", 0)
# Functions that torch calls on torch.cuda before it creates a tensor.
CUDA_FUNCTIONS = {"_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1,
                  "current_device": lambda: 0, "set_device": lambda _: None, "is_bf16_supported": lambda: True,
                  "get_device_name": lambda _: "stand-in", "manual_seed_all": lambda _: None}
COPY_OPERATORS = {"aten::copy_", "aten::_to_copy"}
INDEX_OPERATORS = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
OPERATORS_WITHOUT_SCALARS = {"aten::cat", "aten::stack"}
# Fused attention differs between devices; the plain implementation is the same on both.
MATH_ATTENTION = 0
# Operators that autocast computes in half precision.
PRODUCT_OPERATORS = {"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear",
                     "aten::matmul"}
_product_dtypes: set[torch.dtype] = set()


class StandInTensor(torch.Tensor):
    """A tensor that reports to be on the GPU; its values are in `inner`, on the CPU.

    With `supports_autocast` CUDA's autocast applies to it, but no gradient can be computed: torch would need a driver.
    """

    supports_autocast = False
    inner: torch.Tensor

    def __new__(cls, inner: torch.Tensor) -> StandInTensor:
        """Create a tensor without memory that has the shape, strides and type of `inner`."""
        with no_dispatch():
            shape = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, shape, dispatch_device=cls.supports_autocast,
                                           device_for_backend_keys=CUDA_DEVICE)

    def __init__(self, inner: torch.Tensor) -> None:
        """Store the values."""
        self.inner = inner

    device = property(lambda self: CUDA_DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @property
    def data(self) -> torch.Tensor:
        """The tensor without its autograd history; setting it replaces the weights of a network."""
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: StandInTensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def tolist(self) -> Any:
        """Return the values; torch's own method accepts only its own classes."""
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Compute on the CPU."""
        return _compute_on_cpu(func, args, dict(kwargs or {}))


class _StandInMode(TorchDispatchMode):
    """Intercepts operators that create a stand-in tensor without having one as an argument."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        return _compute_on_cpu(func, args, dict(kwargs or {}))


def _compute_on_cpu(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    if name == "prim::device":
        return CUDA_DEVICE if isinstance(args[0], StandInTensor) else args[0].device
    if name == "aten::_fused_sdp_choice":
        return MATH_ATTENTION
    tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
    has_gpu_tensor = any(isinstance(tensor, StandInTensor) for tensor in tensors)
    _check_same_device(func, name, args, tensors)
    device = kwargs.get("device")
    # Torch's core sees a tensor without memory as `meta`, and passes that on if no device was named.
    gives_gpu_tensor = has_gpu_tensor if device is None else torch.device(device).type in ("cuda", "meta")
    if name == "aten::copy_":
        gives_gpu_tensor = isinstance(args[0], StandInTensor)
    if gives_gpu_tensor and kwargs.get("generator") is not None and kwargs["generator"].device.type == "cpu":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {name}")
    inner_args, inner_kwargs = tree_map_only(StandInTensor, lambda tensor: tensor.inner, (args, kwargs))
    inner_kwargs.pop("pin_memory", None)
    inner_kwargs |= {} if device is None else {"device": torch.device("cpu")}
    if gives_gpu_tensor and name in PRODUCT_OPERATORS:
        result = _compute_product(func, inner_args, inner_kwargs)
    else:
        result = func(*inner_args, **inner_kwargs)
    if not gives_gpu_tensor:
        return args[0] if name == "aten::copy_" else result
    result = tree_map_only(torch.Tensor, StandInTensor, result)
    if not has_gpu_tensor or name == "aten::_to_copy":
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


def _compute_product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Compute a product in half precision as a GPU does: sum in float32, then round; the same on every processor.

    A CPU without bf16 instructions would take minutes for a small network.
    """
    dtype = next(tensor.dtype for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor))
    _product_dtypes.add(dtype)
    if dtype not in (torch.bfloat16, torch.float16):
        return func(*args, **kwargs)
    args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs))
    return func(*args, **kwargs).to(dtype)


def _check_same_device(func: Any, name: str, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    cpu_tensors = [tensor for tensor in tensors
                   if not isinstance(tensor, StandInTensor) and tensor.device.type == "cpu"]
    if len(cpu_tensors) == len(tensors) or not cpu_tensors or name in COPY_OPERATORS:
        return
    misplaced = [tensor for tensor in cpu_tensors if tensor.ndim > 0 or name in OPERATORS_WITHOUT_SCALARS]
    first = tensors[0]
    if not isinstance(first, StandInTensor) and (func._schema.is_mutable or name in INDEX_OPERATORS):
        misplaced = [first]
    elif name in INDEX_OPERATORS:
        misplaced = [tensor for tensor in args[2:3] if tensor.ndim > 0 and not isinstance(tensor, StandInTensor)]
    if misplaced:
        description = ", ".join(f"{'cuda' if isinstance(tensor, StandInTensor) else 'cpu'} {tuple(tensor.shape)}"
                                for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}({description})")


@contextmanager
def simulate_gpu(*, autocast: bool = False) -> Iterator[set[torch.dtype]]:
    """Simulate a GPU `cuda:0`; with `autocast` half precision works as on a GPU, but without gradients.

    Yields the set of types in which convolutions and matrix products have been computed so far.
    """
    def enter(self: Any) -> None:
        self.guard = torch.no_grad()
        self.guard.__enter__()

    def leave(self: Any, *error: Any) -> None:
        self.guard.__exit__(*error)

    only_lift_cpu = torch._C._only_lift_cpu_tensors()
    swap_module_params = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **CUDA_FUNCTIONS))
        stack.enter_context(mock.patch("stages.flow.device._may_have_cuda", lambda: True))
        stack.enter_context(mock.patch.object(StandInTensor, "supports_autocast", autocast))
        # Views of such tensors are not possible in torch's inference mode, and cuDNN has its own operators.
        stack.enter_context(mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled(),
                       warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
        stack.callback(torch._C._set_only_lift_cpu_tensors, only_lift_cpu)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap_module_params)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._ensureCUDADeviceGuardSet()
        stack.enter_context(_StandInMode())
        _product_dtypes.clear()
        yield _product_dtypes
