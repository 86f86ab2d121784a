"""What the comparisons with deepmd-kit share."""

import pytest
import torch


def differences(a, b, place=""):
    """Where two serialized models differ: in keys, values, or arrays bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from differences(a.get(key, "absent"), b.get(key, "absent"), f"{place}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for position, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{place}/{position}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or not torch.equal(a, b):
            yield place
    elif type(a) is not type(b) or a != b:
        yield place


@pytest.fixture
def tree_differences():
    """Places where two serialized models differ, but for options that are an order of evaluation only."""
    return lambda a, b: sorted(place for place in differences(a, b) if not place.endswith("/optim_update"))
