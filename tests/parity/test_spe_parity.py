"""SPE, its baselines and GINE against numbers that the published code itself produced. Budget: 10 s.

The data (weights, inputs, outputs; see its README) stands beside the repository. Published names are mapped to
geomlib's here; a name that the mapping misses fails the test.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from geomlib.models.spe.body import GINELayers, NodeInput, pooled
from geomlib.models.spe.columnwise import PEARL, SignNet
from geomlib.models.spe.encoder import SPE
from geomlib.models.spe.encoding import PEG, NoEncoding
from geomlib.models.spe.mlp import MLP

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "spe_parity"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
pytestmark = pytest.mark.skipif(not CASES, reason=f"{FOLDER.parent.name}/{FOLDER.name} is not beside the repository")
TOLERANCE = 1e-8


def spe(options):
    phi = {
        "mlp": {"kind": "mlp", "norm": "batch", "activation": options["psi_activation"]},
        "deepsets": {"kind": "deepsets", "activation": options["psi_activation"]},
        "transformer": {"kind": "transformer", "heads": options["num_heads"]},
        "zero": {"kind": "ones"},
    }[options["psi_model_name"]]
    if phi["kind"] != "ones":
        phi |= {"width": options["psi_hidden_dims"], "layers": options["n_psi_layers"]}
    sizes = {"layers": options["n_phi_layers"], "width": options["phi_hidden_dims"]}
    mlp = {
        "mlp_width": options["mlp_hidden_dims"],
        "mlp_layers": options["n_mlp_layers"],
        "norm": options["rho_norm"],
        "activation": options["mlp_activation"],
    }
    rho = {
        "gin": {**sizes, **mlp, "norm_between": options["batch_norm"]},
        "mlp": sizes,
        "gin_deepsets": {**sizes, **mlp},
        "ppgn": {**sizes, **mlp},
        "ign": {"width": sizes["width"], "norm": "batch"},
    }[options["phi_model_name"]]
    rho["kind"] = options["phi_model_name"]
    reference = options["reference_switch"] is not None
    return SPE(options["pe_dims"], options["n_psis"], phi=phi, rho=rho, reference_norm=reference)


def encoding(options, weights):
    method = options["pe_method"]
    if method in ("spe", "masked_spe"):
        return spe(options)
    if method == "pearl":
        return PEARL(
            options["pe_dims"],
            powers=options["pearl_k"],
            samples=None if options["basis"] else options["num_samples"],
            filter_layers=options["pearl_mlp_nlayers"],
            filter_width=options["pearl_mlp_hid"],
            filter_outputs=options["pearl_mlp_out"],
            layers=options["n_sample_aggr_layers"],
            width=options["sample_aggr_hidden_dims"],
            mlp_width=options["mlp_hidden_dims"],
            mlp_layers=options["n_mlp_layers"],
            activation=options["pearl_act"],
        )
    if method in ("sign_inv", "masked_sign_inv"):
        last = [name for name in weights if re.fullmatch(r"positional_encoding\.rho\.layers\.\d+\.fc\.weight", name)]
        return SignNet(
            options["pe_dims"],
            layers=options["n_phi_layers"],
            width=options["phi_hidden_dims"],
            mlp_width=options["mlp_hidden_dims"],
            mlp_layers=options["n_mlp_layers"],
            out_layers=len(last) + 1,
            norm_between=options["batch_norm"],
            combine="sum" if method == "masked_sign_inv" else "concat",
        )
    return {"none": NoEncoding, "id": lambda: PEG(options["pe_dims"])}[method]()


class Whole(nn.Module):
    """The published model, of geomlib's parts."""

    def __init__(self, options, weights):
        super().__init__()
        self.encoding = encoding(options, weights)
        self.pooling = options["pooling"]
        if options.get("output", "model") == "encoder":
            return
        width, hidden, layers = options["node_emb_dims"], options["mlp_hidden_dims"], options["n_mlp_layers"]
        types = options.get("feature_type", "discrete") == "discrete"
        edges = not options.get("no_edge_features")
        combine = {"peg": "distance"}.get(options["pe_aggregate"], options["pe_aggregate"])
        nodes = options["n_node_types"]
        self.input = NodeInput(nodes if types else None, None if types else nodes, width, self.encoding, combine)
        self.layers = GINELayers(
            options["n_edge_types"] + 1 if types and edges else None,
            options["n_edge_types"] if not types and edges else None,
            width,
            options["n_base_layers"],
            hidden,
            layers,
            encoding_width=self.input.encoding_width,
            of_edges=self.input.of_edges,
            injection=options.get("pe_injection", "input+layers"),
        )
        self.readout = MLP(width, hidden, options["target_dim"], layers, "batch")

    def encode(self, inputs):
        batch = inputs["edge_index"], inputs["batch"]
        if isinstance(self.encoding, PEARL):
            return self.encoding(None, None, *batch, vectors=inputs.get("q"))
        return self.encoding(inputs["Lambda"], inputs["V"], *batch)

    def predict(self, inputs, encoded):
        nodes = inputs["x"].squeeze(1) if inputs["x"].shape[1] == 1 else inputs["x"]
        rows, injected = self.input(nodes, encoded, inputs["edge_index"])
        rows = self.layers(rows, inputs["edge_index"], inputs["batch"], inputs.get("edge_attr"), injected)
        graphs = int(inputs["batch"][-1]) + 1
        return self.readout(pooled(rows, inputs["batch"], graphs, self.pooling))


RENAMED = [
    (r"^positional_encoding\.phi\.gin\.batch_norms", "encoding.rho.norms"),
    (r"^positional_encoding\.phi\.(gin|gin_deepsets)\.", "encoding.rho."),
    (r"^positional_encoding\.phi\.mlp", "encoding.rho.mlp"),
    (r"layers\.(\d+)\.maksed_deepset_layer\.fc_curr", r"own.\1"),
    (r"layers\.(\d+)\.maksed_deepset_layer\.fc_all", r"sum.\1"),
    (r"^positional_encoding\.phi\.pe_project", "encoding.rho.project"),
    (r"^positional_encoding\.phi\.ppgn\.ppgn_rb\.(\d+)\.mlp1", r"encoding.rho.first.\1"),
    (r"^positional_encoding\.phi\.ppgn\.ppgn_rb\.(\d+)\.mlp2", r"encoding.rho.second.\1"),
    (r"^positional_encoding\.phi\.ppgn\.ppgn_rb\.(\d+)\.skip\.mlp", r"encoding.rho.joined.\1"),
    (r"^positional_encoding\.phi\.ign\.bns", "encoding.rho.norms"),
    (r"^positional_encoding\.phi\.ign\.equi_layers\.(\d+)\.coeffs", r"encoding.rho.coefficients.\1"),
    (r"^positional_encoding\.phi\.ign\.equi_layers\.(\d+)\.bias", r"encoding.rho.biases.\1"),
    (r"^positional_encoding\.phi\.ign\.fc1", "encoding.rho.first"),
    (r"^positional_encoding\.phi\.ign\.fc2", "encoding.rho.last"),
    (r"^positional_encoding\.psi\.linear_in", "encoding.phi.first"),
    (r"^positional_encoding\.psi\.linear_out", "encoding.phi.last"),
    (r"^positional_encoding\.psi\.layers\.(\d+)\.fc_curr", r"encoding.phi.own.\1"),
    (r"^positional_encoding\.psi\.layers\.(\d+)\.fc_all", r"encoding.phi.sum.\1"),
    (r"^positional_encoding\.psi\.layers\.(\d+)\.in_proj_", r"encoding.phi.qkv.\1."),
    (r"^positional_encoding\.psi\.layers\.(\d+)\.out_proj", r"encoding.phi.out.\1"),
    (r"^positional_encoding\.psi\.", "encoding.phi."),
    (r"^positional_encoding\.phi\.batch_norms", "encoding.f.norms"),
    (r"^positional_encoding\.phi\.", "encoding.f."),
    (r"^positional_encoding\.rho\.", "encoding.out."),
    (r"^positional_encoding\.sample_aggr\.gin\.batch_norms", "encoding.gin.norms"),
    (r"^positional_encoding\.sample_aggr\.", "encoding."),
    (r"^positional_encoding\.layers\.", "encoding.linears."),
    (r"^positional_encoding\.", "encoding."),
    (r"^node_features", "input.embedding"),
    (r"^pe_embedding", "input.linear"),
    (r"^fc\.", "input.mix."),
    (r"^base_model\.gine\.", "layers."),
    (r"^base_model\.mlp", "readout"),
    (r"\.edge_features", ".edge_embedding"),
    (r"\.pe_embedding", ".injection"),
    (r"\.layers\.(\d+)\.fc\.", r".linears.\1."),
    (r"\.layers\.(\d+)\.bn\.", r".norms.\1."),
]
"""Published name → geomlib's, applied in this order; a last `fc` becomes the last of `linears`."""


def renamed(tensors, net):
    """Published tensors under geomlib's names and in its shapes; those of the m functions φ are stacked."""
    own, found, stacks = net.state_dict(), {}, {}
    for name, value in tensors.items():
        if part := re.match(r"positional_encoding\.psi_list\.(\d+)\.(.*)", name):
            stacks.setdefault(f"positional_encoding.psi.{part[2]}", {})[int(part[1])] = value
        else:
            found[name] = value
    found |= {name: torch.stack([values[k] for k in range(len(values))]) for name, values in stacks.items()}
    out = {}
    for name, value in found.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        if last := re.match(r"(.*)\.fc\.(weight|bias)$", name):
            count = sum(re.fullmatch(re.escape(last[1]) + r"\.linears\.\d+\.weight", key) is not None for key in own)
            name = f"{last[1]}.linears.{count - 1}.{last[2]}"
        assert name in own, name
        out[name] = value.reshape(own[name].shape)
    return out


@pytest.fixture
def case(request):
    stem = request.param
    options = json.loads((FOLDER / f"{stem}.json").read_text())
    weights = load_file(FOLDER / f"{stem}.safetensors")
    with np.load(FOLDER / f"{stem}.npz", allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    inputs = {name.removeprefix("in/"): value for name, value in tensors.items() if name.startswith("in/")}
    outputs = {name.removeprefix("out/"): value for name, value in tensors.items() if name.startswith("out/")}
    net = Whole(options, weights).double().train(options["mode"] == "train")
    missing, unexpected = net.load_state_dict(renamed(weights, net), strict=False)
    assert not unexpected and all("num_batches_tracked" in name for name in missing), missing
    return stem, options, net, inputs, outputs


def assert_equal(found, expected, what=""):
    scale = max(1.0, float(expected.abs().max()))
    assert float((found.detach() - expected).abs().max()) <= TOLERANCE * scale, what


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_published_numbers(case):
    stem, options, net, inputs, outputs = case
    encoded = net.encode(inputs)
    if "pe" in outputs:
        assert_equal(encoded, outputs["pe"], "encoding")
    if "y_pred" not in outputs:
        return
    predicted = net.predict(inputs, encoded)
    assert_equal(predicted.reshape(outputs["y_pred"].shape), outputs["y_pred"], "prediction")
    if options["mode"] == "eval":
        return
    loss = (predicted.reshape(inputs["y"].shape) - inputs["y"]).abs().mean()
    loss.backward()
    assert_equal(loss.detach(), outputs["loss"], "loss")
    stored = load_file(FOLDER / f"{stem}.train.safetensors")
    for kind, own in (("grad", {name: p.grad for name, p in net.named_parameters()}), ("buffer", net.state_dict())):
        part = {name.removeprefix(f"{kind}/"): value for name, value in stored.items() if name.startswith(f"{kind}/")}
        for name, value in renamed(part, net).items():
            assert_equal(own[name], value, f"{kind} {name}")
    total = sum(p.grad.square().sum() for p in net.parameters() if p.grad is not None).sqrt()
    assert_equal(total, outputs["grad_norm_total"])


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("e01")], indirect=True)
@pytest.mark.parametrize("recompute", ["auto", "none"])
def test_values_between_and_gradients_of_modes(case, recompute):
    _, _, net, inputs, outputs = case
    encoder = net.encoding
    encoder.recompute, encoder.piece_rows = recompute, 100
    values, vectors = inputs["Lambda"].requires_grad_(), inputs["V"].requires_grad_()
    batch = inputs["batch"]
    assert_equal(encoder.weights(values, vectors, batch).detach(), outputs["Z"], "φ")
    nodes = (batch == batch[-1]).nonzero().squeeze(1)
    every = torch.cartesian_prod(nodes, nodes).T
    assert_equal(encoder.pairs(values, vectors, every, batch).detach().view(17, 17, -1), outputs["W_last"], "W")
    half = 0.5 * encoder(values, vectors, inputs["edge_index"], batch).square().sum()
    assert_equal(half.detach(), outputs["half_sq"])
    half.backward()
    assert_equal(values.grad, outputs["grad_Lambda"])
    assert_equal(vectors.grad, outputs["grad_V"])


@pytest.mark.parametrize("case", [name for name in CASES if name[0] == "e"], indirect=True)
def test_single_precision_is_near(case):
    _, _, net, inputs, outputs = case
    net.float()
    single = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    encoded = net.encode(single).detach()
    assert float((encoded - outputs["pe"]).abs().max()) <= 1e-5 * max(1.0, float(outputs["pe"].abs().max()))
