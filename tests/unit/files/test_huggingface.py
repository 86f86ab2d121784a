"""Hugging Face folders: stock transformers and geomlib read what the other wrote."""

import json
from contextlib import nullcontext

import pytest
import torch

from geomlib.cli import main
from geomlib.data.graph import GraphData
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import FileFormatError, GeomlibWarning
from geomlib.files.huggingface import export_huggingface, import_huggingface
from geomlib.files.modelfile import load, save
from geomlib.models.mist.net import MIST
from geomlib.testing.toy import ToyPotential

SIZES = {"layers": 2, "width": 24, "heads": 3, "feedforward": 40, "positions": 30}
LENGTHS = [5, 12, 1, 12, 7]
PAD = 162


def net_of(**arguments):
    torch.manual_seed(0)
    net = MIST(**{**SIZES, **arguments}).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def molecules(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    component = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    ids = torch.randint(1, 159, (len(component),), generator=generator)
    ids[3] = 1  # a triple bond
    return GraphData(token_id=ids, token_component=component, component_graph=torch.arange(len(lengths)))


def rectangle(batch):
    lengths = torch.bincount(batch.token_component)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    ids = torch.full(mask.shape, PAD)
    ids[mask] = batch.token_id
    return ids, mask


def stock(transformers, folder, kind="AutoModelForMaskedLM", **arguments):
    return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64, **arguments).eval()


@pytest.fixture
def transformers(monkeypatch):
    module = pytest.importorskip("transformers", reason="needs transformers (extra hf)")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


@pytest.mark.parametrize("arguments", [{}, {"position_offset": 4}, {"compat_pad_token_id": 1}])
def test_stock_transformers_gives_our_hidden_states(transformers, tmp_path, arguments):
    net, batch = net_of(**arguments), molecules()
    model = stock(transformers, export_huggingface(net, tmp_path / "model"))
    assert SmirkTokenizer.from_pretrained(tmp_path / "model").encode("CC#N") == [45, 45, 1, 93]
    ids, mask = rectangle(batch)
    with torch.no_grad():
        theirs = model(ids, attention_mask=mask.long(), output_hidden_states=True)
        ours = net(batch)
        states = net.encoder.states(batch.token_id, batch.token_component, len(LENGTHS))
    torch.testing.assert_close(theirs.hidden_states[0][mask], states[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(theirs.hidden_states[1][mask], states[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(theirs.hidden_states[-1][mask], ours["token_state"], rtol=0, atol=1e-10)
    torch.testing.assert_close(theirs.logits[mask], ours["token_logit"], rtol=0, atol=1e-10)


def test_stock_transformers_in_single_precision(transformers, tmp_path):
    net, batch = net_of().float(), molecules()
    model = transformers.AutoModel.from_pretrained(
        export_huggingface(net, tmp_path / "model"), add_pooling_layer=False
    ).eval()
    assert model.dtype == torch.float32
    ids, mask = rectangle(batch)
    with torch.no_grad():
        theirs = model(ids, attention_mask=mask.long()).last_hidden_state[mask]
        torch.testing.assert_close(theirs, net.encode(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"compat_pad_token_id": 1}, {"template": True, "pool": "mean"}])
def test_our_own_folder_comes_back_bit_for_bit(tmp_path, arguments):
    net, batch = net_of(**arguments), molecules()
    again = import_huggingface(export_huggingface(net, tmp_path / "model"))
    with torch.no_grad():
        for name, value in net(batch).items():
            assert torch.equal(again(batch)[name], value)
    assert again.config == {**net.config, "attention_dropout": net.config["dropout"]}
    assert not any(parameter.requires_grad for parameter in again.parameters())


def their_folder(transformers, folder, kind, pad, positions):
    torch.manual_seed(0)
    config = transformers.RobertaPreLayerNormConfig(
        vocab_size=165,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=positions,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        bos_token_id=159,
        eos_token_id=160,
        pad_token_id=pad,
    )
    model = getattr(transformers, kind)(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("pad", "positions"), [(162, 190), (1, 40)])
@pytest.mark.parametrize("kind", ["RobertaPreLayerNormForMaskedLM", "RobertaPreLayerNormModel"])
def test_a_folder_that_transformers_wrote(transformers, tmp_path, kind, pad, positions):
    model = their_folder(transformers, tmp_path / "theirs", kind, pad, positions)
    with nullcontext() if "MaskedLM" in kind else pytest.warns(GeomlibWarning, match="no masked-token head"):
        net = import_huggingface(tmp_path / "theirs")
    batch = molecules()
    ids, mask = rectangle(batch)
    with torch.no_grad():
        theirs = model(ids, attention_mask=mask.long(), output_hidden_states=True)
        torch.testing.assert_close(theirs.hidden_states[-1][mask], net.encode(batch), rtol=0, atol=1e-10)
    assert net.encoder.room == positions - pad - 1
    if "MaskedLM" in kind:
        saved = stock(transformers, export_huggingface(net, tmp_path / "ours"))
        with torch.no_grad():
            again = saved(ids, attention_mask=mask.long()).logits
        assert torch.equal(again[mask], theirs.logits[mask])  # positions of padding are not kept


def test_shards_are_read(transformers, tmp_path):
    model = their_folder(transformers, tmp_path / "one", "RobertaPreLayerNormForMaskedLM", 162, 190)
    model.save_pretrained(tmp_path / "many", max_shard_size="30KB")
    assert not (tmp_path / "many" / "model.safetensors").exists()
    one, many = (import_huggingface(tmp_path / name) for name in ("one", "many"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), many.parameters(), strict=True))


def test_padding_id_that_a_config_does_not_tell(tmp_path):
    net, batch = net_of(compat_pad_token_id=1), molecules()
    folder = export_huggingface(net, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    with torch.no_grad():
        assert torch.equal(import_huggingface(folder, compat_pad_token_id=1).encode(batch), net.encode(batch))
        assert not torch.equal(import_huggingface(folder).encode(batch), net.encode(batch))


def edited(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_what_can_not_be_read_is_refused_in_one_line(tmp_path):
    folder = export_huggingface(net_of(), tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    for changes, message in [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"model_type": "roberta-prelayernorm", "hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_act": "gelu", "intermediate_size": 41}, "shape"),
        ({"intermediate_size": 40, "num_hidden_layers": 3}, "layer.2.* is missing"),
        ({"num_hidden_layers": 1}, "has no place"),
    ]:
        with pytest.raises(FileFormatError, match=message):
            import_huggingface(edited(folder, **changes))
    edited(folder, num_hidden_layers=2)
    (folder / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(FileFormatError, match="can't be read"):
        import_huggingface(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileFormatError, match="pickled files run code"):
        import_huggingface(folder)
    with pytest.raises(FileFormatError, match=r"no config\.json"):
        import_huggingface(tmp_path)


def test_what_can_not_be_written_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="family toy"):
        export_huggingface(ToyPotential(["H"]), tmp_path / "model")
    export_huggingface(net_of(), tmp_path / "model")
    with pytest.raises(FileFormatError, match="already holds a model"):
        export_huggingface(net_of(), tmp_path / "model")


def test_command_line_there_and_back(tmp_path, capsys):
    net, batch = net_of(), molecules()
    own, folder, again = (str(tmp_path / name) for name in ("model.safetensors", "hf", "again.safetensors"))
    save(net, own)
    assert main(["model", "export", own, folder, "--format", "huggingface"]) == 0
    assert "in the format huggingface" in capsys.readouterr().out
    assert main(["model", "import", folder, again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["source"] == {"software": "transformers", "file": "hf"}
    with torch.no_grad():
        assert torch.equal(load(again).encode(batch), net.encode(batch))
    assert main(["model", "import", folder, again, "--head", "a"]) == 1
    assert "holds one encoder" in capsys.readouterr().err
