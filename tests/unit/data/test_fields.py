"""The field table. Budget: 1 s."""

import pytest
import torch

from geomlib.data.fields import FIELDS, LEVELS, field
from geomlib.errors import UnknownField
from geomlib.units import parse_unit


@pytest.mark.parametrize("row", FIELDS.values(), ids=lambda row: row.name)
def test_every_row_is_coherent(row):
    assert FIELDS[row.name] is row
    assert row.level in LEVELS
    assert row.dtype in ("float", "float64", "int64", "bool")
    assert row.doc.endswith(".")
    if row.unit != "card":
        parse_unit(row.unit)
    if row.is_index:
        assert row.dtype == "int64"
        assert set(row.index_levels) <= set(LEVELS)
        assert row.item_axis == len(row.shape)
    else:
        assert row.item_axis == 0


def test_unknown_name_gets_the_nearest():
    with pytest.raises(UnknownField, match=r"'force' is not in the field table \(did you mean 'forces'\?\)"):
        field("force")


def test_table_can_not_be_changed():
    with pytest.raises(TypeError):
        FIELDS["energy"] = FIELDS["forces"]


def test_dtypes():
    assert field("pos").torch_dtype(torch.float32) == torch.float32
    assert field("energy").torch_dtype(torch.float32) == torch.float64
    assert field("pbc").torch_dtype() == torch.bool
