"""Narrower models: the hidden units that matter least are taken out, and the rest is fitted to do without them.

Letters: B rows, H units of a layer, O outputs of the layer that reads them.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.data.batches import Batch
from recsys.layers.attention import LocalActivationUnit
from recsys.layers.mlp import MLP
from recsys.models.base import Recommender, Training
from recsys.schema import FeatureSchema

MULTIPLE = 8
RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """The units of one hidden layer: what makes them, what acts on each of them alone, and who reads them.

    Modules by their name in the model; `first` is the first unit's place among the reader's inputs. Units of an
    attention exist once per past item; `mask` names the attention whose mask says which of these are real.
    """

    makers: tuple[str, ...]
    between: tuple[str, ...]
    reader: str
    first: int = 0
    mask: str | None = None


def prune_hidden(model: Recommender, batches: Iterable[Batch], keep: float) -> Recommender:
    """A model with the share `keep` of the units of every hidden layer, ready to be taught by the whole one.

    Widths become multiples of 8, at least 8. Which units go is chosen by the optimal brain surgeon for whole units
    (Hassibi and Stork 1993; Kurtic et al. 2023, arXiv:2302.04089): again and again the one without which the layer
    behind, its weights fitted anew by least squares, comes closest to its old sums on `batches`. Dead and duplicate
    units go first and cost nothing. Batch norm, PReLU and Dice follow their units; the objective, optimizer and
    schedule carry over. A few thousand rows are enough.

    Raises ValueError when `keep` is not in (0, 1], the model has no hidden layers or `batches` is empty.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"`keep` must be a share of the hidden units in (0, 1], got {keep}.")
    batches = list(batches)
    if not batches:
        raise ValueError("`batches` is empty: units are ranked by what they do on data; give a few batches of rows.")
    model = model.eval()
    layers = hidden_layers(model, batches[0])
    state = dict(model.state_dict())
    moments = zip(*(second_moments(model, layers, batch) for batch in batches), strict=True)
    for layer, of_batches in reversed(list(zip(layers, moments, strict=True))):  # what a reader lost does not count
        _prune_layer(state, layer, torch.stack(of_batches).sum(0), keep)
    options = [option for option in ("hidden", "attention_hidden") if option in model.hparams]
    widths = {option: [narrower(width, keep) for width in model.hparams[option]] for option in options}
    return rebuild(model, model.schema, state, **widths)


def has_hidden_layers(model: Recommender) -> bool:
    """Whether there is anything that `prune_hidden` could prune."""
    return any(isinstance(m, LocalActivationUnit) or (isinstance(m, MLP) and len(m) > 0) for m in model.modules())


def narrower(width: int, keep: float) -> int:
    """The share `keep` of a width as a multiple of 8, at least 8 and at most the width.

    >>> [narrower(width, 0.5) for width in (400, 80, 16, 10, 4)]
    [200, 40, 8, 8, 4]
    """
    return width if keep == 1 else min(width, max(MULTIPLE, MULTIPLE * round(width * keep / MULTIPLE)))


def hidden_layers(model: Recommender, batch: Batch) -> list[HiddenLayer]:
    """The hidden layers of every MLP and attention in the model, in each network's order.

    `batch` shows which layer reads an MLP's output. Raises ValueError when there are no hidden layers.
    """
    found: list[HiddenLayer] = []
    for name, module in model.named_modules():
        if isinstance(module, MLP) and len(module):
            found += _mlp_layers(name, module, *_reader_of(model, name, batch))
        elif isinstance(module, LocalActivationUnit):
            found += _attention_layers(name, module)
    if not found:
        raise ValueError(f"{type(model).__name__} has no hidden layers that could be pruned; prune its rows instead.")
    return found


def _mlp_layers(name: str, mlp: MLP, reader: str, first: int) -> Iterator[HiddenLayer]:
    linear = [n for n, layer in enumerate(mlp) if isinstance(layer, nn.Linear)]
    for start, stop in itertools.pairwise([*linear, len(mlp)]):
        last = stop == len(mlp)
        between = tuple(f"{name}.{n}" for n in range(start + 1, stop))
        yield HiddenLayer((f"{name}.{start}",), between, reader if last else f"{name}.{stop}", first if last else 0)


def _attention_layers(name: str, attention: LocalActivationUnit) -> Iterator[HiddenLayer]:
    inner = [f"{name}.inner.{n}" for n in range(len(attention.inner))]
    makers = [(f"{name}.query", f"{name}.key", f"{name}.product"), *((layer,) for layer in inner)]
    for n, (made_by, reader) in enumerate(zip(makers, [*inner, f"{name}.out"], strict=True)):
        yield HiddenLayer(made_by, (f"{name}.activations.{n}",), reader, mask=name)


def _reader_of(model: Recommender, name: str, batch: Batch) -> tuple[str, int]:
    """The linear layer whose input holds the output of the MLP `name`, and where in that input it begins."""
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith(f"{name}.")]
    with _watch(model, [name, *linear]) as seen, torch.no_grad():
        model(batch)
    output = seen[name][1]
    for reader in linear:
        x = seen[reader][0][0] if reader in seen else output[:, :0]
        for first in range(x.shape[-1] - output.shape[-1] + 1):
            if x.dim() == output.dim() and torch.equal(x[:, first : first + output.shape[1]], output):
                return reader, first
    raise ValueError(f"{type(model).__name__}: no linear layer reads the output of `{name}`, so it cannot be pruned.")


@contextlib.contextmanager
def _watch(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, tuple[tuple[Tensor, ...], Tensor]]]:
    """What the named modules take and give in the next forward pass: name -> (inputs, output)."""
    seen: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: seen.update({name: (inputs, output)})

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def second_moments(model: Recommender, layers: list[HiddenLayer], batch: Batch) -> list[Tensor]:
    """For each layer, the sum over the rows of x x^T with x = [units' values, 1], float64 (H + 1, H + 1)."""
    watched = {name for layer in layers for name in (layer.reader, layer.mask) if name}
    with _watch(model, watched) as seen, torch.no_grad():
        model(batch)
    moments = []
    for layer in layers:
        width = len(model.get_parameter(f"{layer.makers[0]}.weight"))
        x = seen[layer.reader][0][0][..., layer.first : layer.first + width]
        x = x.flatten(0, -2)[seen[layer.mask][0][2].flatten()] if layer.mask else x
        x_BH = F.pad(x.double(), (0, 1), value=1.0)
        moments.append(x_BH.T @ x_BH)
    return moments


def _prune_layer(state: dict[str, Tensor], layer: HiddenLayer, moment: Tensor, keep: float) -> None:
    """Take the units out of `state`, in their makers, in what stands between and in their reader."""
    weight, bias = state[f"{layer.reader}.weight"], state.get(f"{layer.reader}.bias")
    width = len(moment) - 1
    inside = slice(layer.first, layer.first + width)
    reading_OH = weight[:, inside].double()
    if bias is None:
        moment = moment[:-1, :-1]
    else:
        reading_OH = torch.cat([reading_OH, bias.double().unsqueeze(1)], 1)
    kept, reading_OH = brain_surgeon(reading_OH, moment, width, width - narrower(width, keep))
    before, behind = weight[:, : inside.start], weight[:, inside.stop :]
    state[f"{layer.reader}.weight"] = torch.cat([before, reading_OH[:, : len(kept)].to(weight.dtype), behind], 1)
    if bias is not None:
        state[f"{layer.reader}.bias"] = reading_OH[:, -1].to(bias.dtype)
    for name, tensor in list(state.items()):
        if name.rpartition(".")[0] in (*layer.makers, *layer.between) and tensor.dim():
            state[name] = tensor[kept]


def brain_surgeon(reading_OH: Tensor, moment: Tensor, units: int, drop: int) -> tuple[Tensor, Tensor]:
    """The units that stay, in order, and the weights (O, kept) with which they stand for all.

    `reading_OH` are the weights of the layer that reads the first `units` columns; further columns (the bias, whose
    input is 1) always stay. `moment` is the sum of x x^T over rows. Without unit j the squared error grows by
    |w_j|^2 / [moment^-1]_jj, and the others' weights move by -w_j [moment^-1]_j / [moment^-1]_jj.
    """
    moment = moment / moment.diagonal().mean().clamp(min=torch.finfo(moment.dtype).tiny)
    inverse = torch.linalg.inv(moment + RIDGE * torch.eye(len(moment), dtype=moment.dtype))
    weight, here = reading_OH.clone(), torch.ones(reading_OH.shape[1], dtype=torch.bool)
    for _ in range(drop):
        pivot = inverse.diagonal().clamp(min=torch.finfo(inverse.dtype).tiny)
        cost = weight.square().sum(0) / pivot
        cost[~here] = torch.inf
        unit = int(cost[:units].argmin())
        row = inverse[unit] / pivot[unit]
        weight -= torch.outer(weight[:, unit], row)
        inverse -= torch.outer(inverse[:, unit], row)
        here[unit] = False
        weight[:, unit], inverse[unit], inverse[:, unit] = 0.0, 0.0, 0.0
    return here[:units].nonzero().squeeze(1), weight[:, here]


def rebuild(model: Recommender, schema: FeatureSchema, state: dict[str, Tensor], **options: Any) -> Recommender:
    """A model of the same class and training settings with other `options` and weights, in evaluation mode."""
    built = blank(model, schema, **options)
    built.load_state_dict(state)
    return built.eval()


def blank(model: Recommender, schema: FeatureSchema, **options: Any) -> Recommender:
    """An untrained model of the same class and training settings with other `options`."""
    keywords = {name: value for name, value in model.hparams.items() if name != "schema"} | options
    training = {name: getattr(model, name) for name in Training.__annotations__}
    return type(model)(schema, **keywords, **training)
