"""What a running derivative asks for, known to operations that write their own derivatives."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["DerivativeScope", "derivative_scope", "differentiating_positions"]


@dataclass
class DerivativeScope:
    """Autograd tells its own operations which inputs a derivative is taken for, but not those written in Python.

    Attributes:
        parameters: whether gradients of parameters are asked for.
    """

    parameters: bool = True


_current: ContextVar[DerivativeScope | None] = ContextVar("derivative scope", default=None)


def derivative_scope() -> DerivativeScope:
    """Scope of the energy that is being computed; an operation keeps it and looks into it when it is differentiated."""
    return _current.get() or DerivativeScope()


@contextmanager
def differentiating_positions() -> Iterator[DerivativeScope]:
    """Scope for an energy that is differentiated with respect to positions by whoever sets `parameters` to False."""
    scope = DerivativeScope()
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
        scope.parameters = True
