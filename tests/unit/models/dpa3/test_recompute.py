"""What is computed again changes no number: energies, forces, virials and gradients of a loss on them."""

import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError
from geomlib.models import DPA3
from geomlib.models.dpa3 import execution
from geomlib.nn import message, moments
from geomlib.nn.derivative import Derivatives

VARIANTS = {
    "default": {},
    "sequential": {"update_order": "sequential"},
    "average": {"update_style": "average"},
    "increment": {"update_style": "increment"},
    "tail": {"activation": "silut:0.1"},
    "tanh": {"activation": "tanh"},
    "uncompressed": {"angle_compression": 0},
    "mapped": {"split_compression": False},
    "fixed": {"selection": "fixed", "smooth_edge_update": False, "max_neighbors": 300, "max_angle_neighbors": 80},
    "no angles": {"update_angles": False},
    "two messages": {"edge_messages": 2},
    "excluded": {"excluded_pairs": [["O", "H"]]},
}


def net(**options) -> Derivatives:
    torch.manual_seed(1)
    sizes = {"layers": 3, "node_dim": 16, "edge_dim": 8, "angle_dim": 8, "fitting_layers": [8, 8]}
    ranges = {"cutoff": 4.0, "cutoff_smooth": 3.5, "angle_cutoff": 3.0, "angle_cutoff_smooth": 2.5}
    made = DPA3(["O", "H"], precision="float64", **sizes, **ranges, **options)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return Derivatives(made)


def batch(model: Derivatives) -> GraphData:
    generator = torch.Generator().manual_seed(3)

    def crystal(atoms: int) -> GraphData:
        return GraphData(
            pos=5.0 * torch.rand(atoms, 3, generator=generator, dtype=torch.float64),
            atomic_number=torch.tensor([8, 1])[torch.randint(0, 2, (atoms,), generator=generator)],
            cell=6.0 * torch.eye(3, dtype=torch.float64)[None],
            pbc=torch.ones(1, 3, dtype=torch.bool),
        )

    return model.spec.build(collate([crystal(9), crystal(1), crystal(12)]))


def everything(model: Derivatives) -> dict[str, torch.Tensor]:
    model.train()
    out = model(batch(model))
    loss = sum(out[name].square().sum() for name in ("energy", "forces", "virial"))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.eval().requires_grad_(False)
    evaluated = {f"evaluated {name}": value for name, value in model(batch(model)).items()}
    return {**{name: value.detach() for name, value in out.items()}, **gradients, **evaluated}


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(message, "_CHUNK", 1_000)
    monkeypatch.setattr(moments, "_CHUNK", 1_000)
    monkeypatch.setattr(execution, "_PART", {"cpu": 500, "cuda": 500})


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_all_ways_agree(options, monkeypatch, small_pieces):
    expected = everything(net(**options))  # small enough for autograd's own way
    monkeypatch.setattr(execution, "_SMALL", 0)
    for way in execution.RECOMPUTE:
        found = everything(net(**options, recompute=way))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            scale = max(float(value.abs().max()), 1.0)
            assert float((found[name] - value).abs().max()) <= 1e-11 * scale, (way, name)


def test_single_precision_agrees(monkeypatch, small_pieces):
    expected = everything(net().float())
    monkeypatch.setattr(execution, "_SMALL", 0)
    found = everything(net(recompute="layers").float())
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-5 * max(float(value.abs().max()), 1.0), name


def test_the_way_is_taken(monkeypatch):
    taken = []
    original = message._Step.forward
    monkeypatch.setattr(
        message._Step,
        "forward",
        lambda ctx, plan, keep, *rest: (taken.append(keep), original(ctx, plan, keep, *rest))[1],
    )
    model = net()
    model(batch(model))
    assert not taken  # autograd's own
    monkeypatch.setattr(execution, "_SMALL", 0)
    model(batch(model))
    assert set(taken) == {"preactivations"}
    taken.clear()
    model.net.recompute = "angles"
    model(batch(model))
    assert set(taken) == {"inputs"}


def test_an_evaluation_that_would_not_fit_takes_a_leaner_way(monkeypatch, caplog):
    geometry = type("Geometry", (), {})()
    geometry.center = torch.zeros(100, dtype=torch.int64)
    geometry.length = torch.zeros(100, 1)
    geometry.angles = None
    widths = (1_000_000, 1_000_000, 8)
    needed = execution._needed(geometry, 6, widths)
    assert needed["none"] > needed["angles"] > 2**28
    caplog.set_level("INFO")
    for free, way in (
        (10 * needed["none"], "none"),
        (1.3 * needed["angles"], "angles"),
        (0.5 * needed["layers"], "layers"),
    ):
        monkeypatch.setattr(execution, "available_memory", lambda free=free: int(free))
        assert execution._that_fits(geometry, "none", 6, widths) == way
    assert "recompute: layers" in caplog.text


def test_unknown_way():
    with pytest.raises(ConfigError, match=r"recompute=.angle. is unknown .did you mean .angles"):
        DPA3(["H"], recompute="angle")
