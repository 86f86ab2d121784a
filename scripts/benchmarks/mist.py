"""Tokens per CPU second of the molecular encoder: packed, padded, and stock transformers where it is installed.

Batches are the same for all: molecules of real lengths with random tokens, or those of a file of SMILES lines. The
padded evaluation is ours with one rectangle for the batch; transformers runs RobertaPreLayerNormForMaskedLM with its
attention of choice (sdpa). Training is forward, backward and AdamW's step of the masked-token loss over 15 % of the
tokens; transformers makes logits for all tokens, as it does when it is given labels.

    python scripts/benchmarks/mist.py [--preset tiny] [--tokens 8192] [--smiles FILE] [--repeats 5] [--json]
"""

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from geomlib.data.graph import GraphData
from geomlib.files.huggingface import tensor_names
from geomlib.models.mist.net import MIST
from geomlib.models.mist.presets import PRESETS

PAD, MASK = 162, 164


def lengths_of(file: Path | None, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens of each molecule of a batch: those of a file (one per character, near enough), or like ZINC's."""
    if file is not None:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            found = torch.tensor([len(next(stream).strip()) for _ in range(tokens // 20)]).clamp_max(200)
    else:
        found = (43.6 + 9.0 * torch.randn(tokens // 20, generator=generator)).clamp(12, 96).long()
    return found[: int((found.cumsum(0) <= tokens).sum())]


def batch_of(lengths: torch.Tensor, generator: torch.Generator) -> GraphData:
    """Random tokens, 15 % of them hidden."""
    component = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    ids = torch.randint(1, 159, (len(component),), generator=generator)
    chosen = torch.rand(len(ids), generator=generator) < 0.15
    return GraphData(
        token_id=torch.where(chosen, MASK, ids),
        token_component=component,
        token_label=torch.where(chosen, ids, -100),
        component_graph=torch.arange(len(lengths)),
    )


def ours(net: MIST, batch: GraphData) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """What gives hidden states, and what gives the loss."""
    chosen = (batch.token_label >= 0).nonzero().squeeze(1)

    def loss() -> torch.Tensor:
        logits = net.logits(net.encode(batch).index_select(0, chosen)).float()
        return F.cross_entropy(logits, batch.token_label.index_select(0, chosen))

    return lambda: net.encode(batch), loss


def stock(net: MIST, batch: GraphData) -> tuple[torch.nn.Module, Callable, Callable] | None:
    """The same net of transformers, with the batch as a rectangle."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers

    own, lengths = net.config, torch.bincount(batch.token_component)
    config = transformers.RobertaPreLayerNormConfig(
        vocab_size=own["vocabulary"],
        hidden_size=own["width"],
        num_hidden_layers=own["layers"],
        num_attention_heads=own["heads"],
        intermediate_size=own["feedforward"],
        max_position_embeddings=own["positions"] + PAD + 1,
        type_vocab_size=2,
        layer_norm_eps=own["epsilon"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
    )
    model = transformers.RobertaPreLayerNormForMaskedLM(config)
    state = {theirs: net.state_dict()[mine] for mine, theirs in tensor_names(own["layers"]).items()}
    positions = "roberta_prelayernorm.embeddings.position_embeddings.weight"
    state[positions] = torch.cat([torch.zeros(PAD + 1, own["width"]), state[positions]])
    model.load_state_dict(state, strict=False)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    ids, labels = torch.full(mask.shape, PAD), torch.full(mask.shape, -100)
    ids[mask], labels[mask] = batch.token_id, batch.token_label
    attention = mask.long()
    return (
        model,
        lambda: model.roberta_prelayernorm(ids, attention_mask=attention).last_hidden_state[mask],
        lambda: model(ids, attention_mask=attention, labels=labels).loss,
    )


def measure(function: Callable[[], object], repeats: int) -> float:
    """Median of the CPU seconds of `function`, after one call that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch")
    parser.add_argument("--smiles", type=Path, help="file whose lines give the lengths")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    lengths = lengths_of(args.smiles, args.tokens, generator)
    batch = batch_of(lengths, generator)
    net = MIST.from_preset(args.preset, dropout=0.0)
    ways: dict[str, tuple[torch.nn.Module, Callable, Callable, bool]] = {}
    for name, rounding, half in (
        ("packed", 1, False),
        ("padded", None, False),
        ("packed, bfloat16", 1, True),
        ("padded, bfloat16", None, True),
    ):
        other = MIST.from_preset(args.preset, dropout=0.0)
        other.load_state_dict(net.state_dict())
        other.encoder.rounding = rounding
        ways[name] = (other, *ours(other, batch), half)
    if (peer := stock(net, batch)) is not None:
        ways["transformers"], ways["transformers, bfloat16"] = (*peer, False), (*peer, True)
    tokens, rows = len(batch.token_id), []
    with torch.no_grad():
        reference = net.encode(batch)
    for name, (model, hidden, loss, half) in ways.items():
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)

        def step(loss=loss, optimizer=optimizer, half=half) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        def forward(hidden=hidden, half=half) -> torch.Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return hidden()

        model.eval()
        error = float((forward().float() - reference).abs().max())
        seconds = measure(forward, args.repeats)
        model.train()
        rows.append(
            {
                "way": name,
                "forward": tokens / seconds,
                "training": tokens / measure(step, args.repeats),
                "difference": error,
            }
        )
    if args.json:
        print(json.dumps({"preset": args.preset, "tokens": tokens, "molecules": len(lengths), "rows": rows}))
        return
    print(f"{args.preset}, batch of {len(lengths)} molecules with {tokens} tokens, longest {int(lengths.max())}")
    print(f"{'':24}{'forward':>12}{'training':>12}  tokens per CPU second; largest difference from packed")
    for row in rows:
        print(f"{row['way']:24}{row['forward']:12,.0f}{row['training']:12,.0f}  {row['difference']:.1e}")


if __name__ == "__main__":
    main()
