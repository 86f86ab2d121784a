"""The product on cuequivariance beside geomlib's own: values, derivatives, precision, what its CUDA kernels take."""

import copy
import sys

import pytest
import torch

from geomlib.errors import ConfigError, MissingExtra
from geomlib.nn.tensor_product import Path, TensorProduct, all_paths, natural_irreps, parse_irreps, width, wigner_matrix

NATURAL = (natural_irreps(2),) * 3
IRREPS = {
    "natural parities": NATURAL,
    "both parities": ("0e+0o+1e+1o", "1o+2e", "0e+1e+1o+2o+3o+4e"),  # nothing reaches 4e
    "rotations alone": (natural_irreps(2, parity=False),) * 3,
}
MODES = ("uuu", "uvu", "uvw")


def pair(irreps=NATURAL, mode="uvu", channels=3, **options):
    """geomlib's product and cuequivariance's with the same weights."""
    options = {"channels_y": channels if mode == "uuu" else 2, "channels_out": 4, **options}
    torch.manual_seed(0)
    kinds = ("cg_stacked", "cuequivariance")
    ours, theirs = (TensorProduct(kind, *irreps, channels, mode=mode, **options).double() for kind in kinds)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs(product, rows=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(rows, channels, width(irreps), generator=generator, dtype=torch.float64)
        for channels, irreps in ((product.channels, product.irreps_x), (product.channels_y, product.irreps_y))
    )
    weight = torch.randn(rows, *product.weight_shape, generator=generator, dtype=torch.float64)
    return x, y, weight if product.weights == "rows" else None


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuequivariance", None)
    with pytest.raises(MissingExtra, match=r"needs the package 'cuequivariance-torch': pip install 'geomlib\[cue\]'"):
        TensorProduct("cuequivariance", *NATURAL, 2)


class TestBesideOurs:
    """All that needs the packages."""

    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("cuequivariance", reason="needs geomlib[cue]")
        return pytest.importorskip("cuequivariance_torch", reason="needs geomlib[cue]")

    @pytest.mark.parametrize("irreps", IRREPS.values(), ids=IRREPS)
    @pytest.mark.parametrize("weights", ["shared", "rows", "none"])
    @pytest.mark.parametrize("mode", MODES)
    def test_values_are_the_same(self, mode, weights, irreps):
        for channels_y in (1, 3):
            ours, theirs = pair(irreps, mode, weights=weights, channels_y=channels_y)
            arguments = inputs(ours)
            expected, found = ours(*arguments).detach(), theirs(*arguments).detach()
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            assert not found[:, :, -9:].any() or irreps is not IRREPS["both parities"]

    @pytest.mark.parametrize("weights", ["shared", "rows", "none"])
    @pytest.mark.parametrize("channels_y", [1, 3])
    def test_components_first(self, weights, channels_y):
        ours, theirs = pair(mode="uuu", weights=weights, channels_y=channels_y)
        x, y, weight = inputs(ours)
        x, y = x.permute(2, 0, 1), y.permute(2, 0, 1)
        weight = None if weight is None else weight.transpose(0, 1)
        expected = ours.multiply(x, y, weight).detach()
        assert theirs.multiply(x, y, weight).shape == expected.shape
        torch.testing.assert_close(theirs.multiply(x, y, weight).detach(), expected, rtol=0, atol=1e-12)

    def test_some_paths_and_other_coefficients(self):
        irreps = tuple(parse_irreps("0e+1o+2e") for _ in range(3))
        some = [path for path in all_paths(*irreps) if path.x != path.out]
        assert Path(0, 1, 1) in some
        ours, theirs = pair(irreps, paths=some, coefficients=[1.0 + k for k in range(len(some))])
        arguments = inputs(ours)
        torch.testing.assert_close(theirs(*arguments).detach(), ours(*arguments).detach(), rtol=0, atol=1e-11)
        ours, theirs = pair(irreps, paths=[])
        assert not theirs(*arguments).any() and theirs(*arguments).shape == ours(*arguments).shape

    def test_no_rows(self):
        ours, theirs = pair(weights="rows")
        arguments = inputs(ours, rows=0)
        assert theirs(*arguments).shape == ours(*arguments).shape

    @pytest.mark.parametrize("mode", MODES)
    def test_first_and_second_derivatives_are_the_same(self, mode):
        ours, theirs = pair(mode=mode, channels=2, weights="rows")
        found = []
        for product in (ours, theirs):
            x, y, weight = (value.requires_grad_() for value in inputs(product, rows=2))
            first = torch.autograd.grad(product(x, y, weight).square().sum(), (x, y, weight), create_graph=True)
            second = torch.autograd.grad(sum(part.square().sum() for part in first), (x, y, weight))
            found.append((*first, *second))
        for other, expected in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-10)

    def test_it_turns_with_its_inputs_under_reflections_too(self):
        _, product = pair(IRREPS["both parities"], "uuu")
        x, y, _ = inputs(product)
        turn = -torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
        dx, dy, dz = (wigner_matrix(row, turn) for row in (product.irreps_x, product.irreps_y, product.irreps_out))
        assert (product(x @ dx.T, y @ dy.T) - product(x, y) @ dz.T).abs().max() < 1e-12

    def test_precision_is_that_of_the_net_and_constants_stay_exact(self):
        ours, theirs = pair()
        x, y, _ = inputs(ours)
        single = theirs.float()
        assert single(x.float(), y.float()).dtype == torch.float32
        again = single.double()
        ours.load_state_dict(again.state_dict())
        torch.testing.assert_close(again(x, y).detach(), ours(x, y).detach(), rtol=0, atol=1e-12)
        assert torch.equal(copy.deepcopy(again)(x, y), again(x, y))

    def test_reach_and_cost_are_those_of_the_paths(self):
        irreps = natural_irreps(1)
        product = TensorProduct("cuequivariance", irreps, irreps, irreps, 1)
        dense = TensorProduct("cg_dense", irreps, irreps, irreps, 1)
        assert product.expressivity() == len(product.paths) == 4
        assert product.flops() == dense.flops()

    def test_a_gpu_without_kernels_is_one_line(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cuequivariance_ops_torch", None)
        _, product = pair()
        with pytest.raises(ConfigError, match=r"kernels on a GPU: pip install cuequivariance-ops-torch-cu12"):
            product.operator._make("cuda", torch.float32)

    @pytest.mark.parametrize("channels_y", [1, 32])
    def test_channel_by_channel_the_polynomial_is_uniform(self, channels_y):
        """What method `uniform_1d` asks for: scalar coefficients, and one extent of all operands that have any."""
        import cuequivariance as cue

        _, product = pair(mode="uuu", channels=32, channels_y=channels_y)
        flat = product.operator.polynomial(cue).flatten_coefficient_modes().squeeze_modes()
        assert {operand.ndim for operand in flat.operands} <= {0, 1}
        extents = {operand.segment_shape for operand in flat.operands if operand.ndim}
        assert extents == {(32,)}
        assert all(stp.coefficient_subscripts == "" for _, stp in flat.operations)

    @pytest.mark.parametrize(("mode", "target"), [("uvu", "u_v_uv_u"), ("uvw", "u_v_uvw_w")])
    def test_the_other_modes_are_ones_of_the_fused_kernel(self, mode, target):
        import cuequivariance as cue

        _, product = pair(mode=mode)
        ((_, stp),) = product.operator.polynomial(cue).operations
        wanted = cue.segmented_polynomials.Subscripts(target)
        found, _ = next(cue.segmented_polynomials.dispatch(stp, [wanted], "permute_all_but_last"))
        assert found.num_operands == 4
