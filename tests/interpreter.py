"""Makes Triton's interpreter several times as fast: it spends its time on types that it has made before.

Results stay the same. What is replaced belongs to Triton's internals, so only the releases that have it are changed.
"""

import math

from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

_patched = set()  # ids of the globals of the functions that were called
_call = interpreter.InterpretedFunction.__call__


def _call_patched(self, *args, **kwargs):
    """The interpreter patches its language anew for every function that a kernel calls; once per module will do."""
    if id(self.fn.__globals__) in _patched:
        return self.rewrite()(*args, **kwargs)
    _patched.add(id(self.fn.__globals__))
    return _call(self, *args, **kwargs)


_make_block_type = core.block_type.__init__
_block_types = {}


def _new_block_type(cls, element_ty, shape):
    """One object for each element type and shape."""
    key = str(element_ty), tuple(s.value if isinstance(s, core.constexpr) else s for s in shape)
    if key not in _block_types:
        _block_types[key] = object.__new__(cls)
    return _block_types[key]


def _init_block_type(self, element_ty, shape):
    if not hasattr(self, "name"):
        _make_block_type(self, element_ty, shape)


_tensor_shapes = {}


def _init_tensor(self, handle, type):
    """As Triton's, but tensors of one shape share it."""
    if not hasattr(type, "tensor_shape"):
        shape = tuple(type.shape) if type.is_block() else ()
        if shape not in _tensor_shapes:
            _tensor_shapes[shape] = core.tuple([core.constexpr(s) for s in shape]), core.constexpr(math.prod(shape))
        type.tensor_shape = _tensor_shapes[shape]
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = type.tensor_shape


_numpy_dtype = getattr(interpreter, "_get_np_dtype", None)
_numpy_dtypes = {}


def _cached_numpy_dtype(dtype):
    if dtype.name not in _numpy_dtypes:
        _numpy_dtypes[dtype.name] = _numpy_dtype(dtype)
    return _numpy_dtypes[dtype.name]


_equal = core.tuple.__eq__ if hasattr(core, "tuple") else None


def _equal_tuples(self, other):
    """As Triton's, without new tuples where both hold integers: shapes are compared at every operation."""
    values = other.values if isinstance(other, core.tuple) else other
    if isinstance(values, list | tuple) and all(type(value) is int for value in (*values, *self.values)):
        return core.constexpr(self.values == list(values))
    return _equal(self, other)


_broadcast = getattr(TritonSemantic, "broadcast_impl_value", None)


def _broadcast_unless_equal(self, lhs, rhs):
    """As Triton's, which compares shapes dimension by dimension even where they are one object."""
    return (lhs, rhs) if lhs.shape is rhs.shape else _broadcast(self, lhs, rhs)


_check_overflow = getattr(TritonSemantic, "binary_op_sanitize_overflow_impl", None)


def _check_overflow_if_asserted(self, *arguments):
    """As Triton's, which computes an assertion at every sum of integers and, where it does not debug, drops it.

    That takes half of the interpreter's time.
    """
    if self.builder.options.debug:
        _check_overflow(self, *arguments)


interpreter.InterpretedFunction.__call__ = _call_patched
if _check_overflow:
    TritonSemantic.binary_op_sanitize_overflow_impl = _check_overflow_if_asserted
if hasattr(core, "tuple") and hasattr(core, "_unwrap_shape") and _numpy_dtype:
    core.block_type.__new__, core.block_type.__init__ = staticmethod(_new_block_type), _init_block_type
    core.tensor.__init__ = _init_tensor
    core.tuple.__eq__ = _equal_tuples
    interpreter._get_np_dtype = _cached_numpy_dtype
    if _broadcast:
        TritonSemantic.broadcast_impl_value = _broadcast_unless_equal
