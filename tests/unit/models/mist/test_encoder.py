"""The molecular encoder: sizes, packing, positions, pooling."""

import pytest
import torch

from geomlib.errors import ConfigError, DataError
from geomlib.models.mist.encoder import Encoder, first_token, mean_token
from geomlib.models.mist.head import TokenHead
from geomlib.models.mist.presets import PRESETS

SIZES = {"layers": 2, "width": 16, "heads": 2, "feedforward": 40, "positions": 32}
LENGTHS = [4, 9, 4, 1, 12, 7]


def tokens(lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    component = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return torch.randint(1, 159, (len(component),), generator=generator), component, len(lengths)


def encoder(**arguments):
    torch.manual_seed(0)
    made = Encoder(**{**SIZES, "dropout": 0.0, **arguments}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize(
    ("name", "layers", "whole"), [("28M", 25_219_072, 26_619_045), ("1.8B", 1_784_466_432, 1_794_894_501)]
)
def test_published_numbers_of_parameters(name, layers, whole):
    with torch.device("meta"):
        made = Encoder.from_preset(name)
        head = TokenHead(made.width, made.vocabulary)
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in made.named_children()}
    assert count["blocks"] == layers
    assert sum(count.values()) + sum(p.numel() for p in head.parameters()) == whole


@pytest.mark.parametrize(("name", "millions"), [("tiny", 0.85), ("small", 5.0)])
def test_small_presets_are_about_as_large_as_they_say(name, millions):
    made = Encoder.from_preset(name)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(1e6 * millions, rel=0.06)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_packed_equals_padded(dtype, tolerance):
    packed, padded = encoder(rounding=1).to(dtype), encoder(rounding=None).to(dtype)
    assert all(torch.equal(a, b) for a, b in zip(packed.parameters(), padded.parameters(), strict=True))
    one, two = (made.states(*tokens()) for made in (packed, padded))
    for a, b in zip(one, two, strict=True):
        assert float(((a - b).abs().max() / b.abs().max().clamp_min(1.0)).detach()) <= tolerance
    torch.testing.assert_close(packed(*tokens()), one[-1], rtol=0, atol=0)


def test_molecules_do_not_see_each_other():
    made = encoder()
    ids, component, count = tokens()
    together = made(ids, component, count)
    for molecule in range(count):
        own = ids[component == molecule]
        alone = made(own, torch.zeros_like(own), 1)
        torch.testing.assert_close(together[component == molecule], alone, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_padded_evaluation():
    grads = []
    for rounding in (1, None):
        made = encoder(rounding=rounding)
        made(*tokens()).square().sum().backward()
        grads.append([p.grad for p in made.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_recomputing_changes_nothing():
    grads = []
    for recompute in (False, True):
        made = encoder(recompute=recompute)
        made(*tokens()).square().sum().backward()
        grads.append(made.blocks[0].query.weight.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_position_offset_moves_the_table():
    plain, moved = encoder(), encoder(position_offset=5)
    with torch.no_grad():
        moved.embedding.position.weight[5:] = plain.embedding.position.weight[:-5]
    torch.testing.assert_close(plain(*tokens()), moved(*tokens()), rtol=0, atol=0)


def test_triple_bonds_have_no_position_under_the_old_padding_id():
    made = encoder(compat_pad_token_id=1)
    ids, component, count = tokens([4, 3])
    ids[1], ids[4] = 1, 1  # in the middle and as the first glyph
    state = made.embedding
    reference = state.norm(
        state.token(ids) + state.position(torch.tensor([2, 1, 3, 4, 1, 2, 3])) + state.segment.weight[0]
    )
    torch.testing.assert_close(made.states(ids, component, count)[0], reference, rtol=0, atol=1e-13)


def test_too_long_a_molecule_is_refused():
    made = encoder()
    assert made.room == 32 and encoder(position_offset=2).room == encoder(compat_pad_token_id=1).room == 30
    made(*tokens([32, 1]))
    with pytest.raises(DataError, match="33 tokens: the encoder has positions for 32"):
        made(*tokens([33, 1]))


def test_pooling():
    hidden = torch.arange(10.0, dtype=torch.float64).view(5, 2)
    component = torch.tensor([0, 0, 2, 2, 2])
    assert first_token(hidden, component, 4).tolist() == [[0, 1], [0, 0], [4, 5], [0, 0]]
    assert mean_token(hidden, component, 4).tolist() == [[1, 2], [0, 0], [6, 7], [0, 0]]
    assert first_token(hidden[:0], component[:0], 2).tolist() == [[0, 0], [0, 0]]


def test_dropout_only_in_training():
    made = encoder(dropout=0.5)
    torch.manual_seed(1)
    assert not torch.equal(made(*tokens()), made(*tokens()))
    made.eval()
    assert torch.equal(made(*tokens()), made(*tokens()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "3 heads"),
        ({"layers": 0}, "layers is 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"position_offset": 32}, "position_offset"),
        ({"compat_pad_token_id": 31}, "compat_pad_token_id"),
        ({"compat_pad_token_id": 1, "position_offset": 2}, "not both"),
        ({"rounding": "automatic"}, "rounding"),
    ],
)
def test_sizes_that_make_no_encoder(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Encoder(**{**SIZES, **arguments})


def test_unknown_preset_names_the_closest():
    assert set(PRESETS) == {"tiny", "small", "28M", "1.8B"}
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        Encoder.from_preset("smal")
