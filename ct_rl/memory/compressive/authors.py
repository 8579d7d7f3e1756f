"""Cores made of the variables of the authors' own code (`dm-sonnet` 1.36, `nets/transformer.py`), with its semantics.

What their code does otherwise than ours by choice is switched here: empty places are zeros that attention reads,
a compressed slot's distance is counted from the window, the first slot of a memory that is no multiple of the rate
starts with zeros, and the compression loss counts windows of which nothing leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ct_rl.memory.compressive.compression import Convolution
from ct_rl.memory.compressive.core import CompressiveTransformer, TransformerXL
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State
from ct_rl.memory.report import StepAttention


class AuthorsCore(MemoryCore):
    """The authors' module: an input projection with ReLU, the core, and an output projection if there is one.

    Each call is one of their chunks: N steps, the window of `core`.
    """

    def __init__(self, core: CompressiveTransformer, d_in: int, d_out: int | None, loss: bool):
        super().__init__()
        self.d_model, self.d_out = d_in, d_out or core.d_out
        self.project = nn.Linear(d_in, core.d_model)
        self.core = core
        self.readout = nn.Linear(core.d_out, d_out, bias=False) if d_out else nn.Identity()
        self.reports_loss = loss

    @property
    def context_length(self) -> int | None:
        return self.core.context_length

    def initial_state(self, batch_size: int) -> State:
        return self.core.initial_state(batch_size)

    def compressor_parameters(self) -> list[nn.Parameter]:
        return self.core.compressor_parameters()

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        out = self.core.run(self.project(x).relu(), state, resets, attention)
        out.y = self.readout(out.y)
        if self.reports_loss and self.training:  # theirs is 0 for pooling
            out.losses.setdefault("compression", out.y.new_zeros(()))
        return out

    def run_step(self, x: Tensor, state: State, resets: Tensor) -> Tensor:
        return self.readout(self.core.run_step(self.project(x).relu(), state, resets))

    def run_watched_step(
        self, x: Tensor, state: State, resets: Tensor, masked: Tensor | None
    ) -> tuple[Tensor, StepAttention]:
        y, attention = self.core.run_watched_step(self.project(x).relu(), state, resets, masked)
        return self.readout(y), attention

    def authors_state(self, state: State) -> list[dict[str, Tensor]]:
        """A state in their layout, oldest first: per layer "episodic_memory" [B, M, E] and "compressed_memory"
        [B, C, E], or "memory" of a TransformerXL.
        """
        sizes = self.core.sizes
        slots, kept = state["past"].split([sizes.compressed, sizes.kept], 2)
        layers: list[dict[str, Tensor]] = []
        steps = state["steps"][:, None]
        rows = torch.arange(len(steps), device=steps.device)[:, None]
        for i in range(len(self.core.layers)):
            at = (steps - torch.arange(sizes.memory, 0, -1, device=steps.device)) % sizes.kept
            memory = kept[rows, i, at]
            if not sizes.compressed:
                layers.append({"memory": memory})
                continue
            newest = sizes.made(steps)
            slot = newest - torch.arange(sizes.compressed, 0, -1, device=steps.device)
            compressed = slots[rows, i, slot % sizes.compressed]
            layers.append({"episodic_memory": memory, "compressed_memory": compressed})
        return layers

    def from_authors_state(self, layers: list[Mapping[str, Any]], calls: int) -> State:
        """A state of this core from theirs (see `authors_state`) after `calls` calls of one window."""
        sizes = self.core.sizes
        like = self.project.weight
        first = torch.as_tensor(next(iter(layers[0].values())))
        state = self.initial_state(len(first))
        steps = calls * sizes.window
        state["steps"].fill_(steps)
        slots, kept = state["past"].split([sizes.compressed, sizes.kept], 2)
        at = (steps - torch.arange(sizes.memory, 0, -1)) % sizes.kept
        for i, layer in enumerate(layers):
            name = "episodic_memory" if sizes.compressed else "memory"
            kept[:, i, at] = torch.as_tensor(layer[name]).to(like)
            if sizes.compressed:
                slot = int(sizes.made(torch.tensor(steps))) - torch.arange(sizes.compressed, 0, -1)
                held = torch.as_tensor(layer["compressed_memory"]).to(like)
                slots[:, i, slot % sizes.compressed] = held
        return state


def from_authors(config: Mapping[str, Any], variables: Mapping[str, Any]) -> AuthorsCore:
    """A core with the authors' variables, input projection included, that computes what their code computes.

    In range are TransformerXL and the Compressive Transformer with mean or max pooling or the convolution with
    either loss, norm on input or output, equal key and value sizes, one hidden layer in the MLP, and calls of one
    window (their chunk), which is a multiple of the rate.

    Args:
        config: "kind" ("ct" or "xl"), "core" (arguments of their TransformerTower), "chunk", "input_dim", and
            "em", "cm", "rate", "compressor" ("conv" or "pool"), "compressor_config", or "mem" for "xl".
        variables: arrays by TensorFlow name, such as "compressive_transformer/mlp/linear_0/w".

    Raises:
        ValueError: for a configuration out of range, or a variable that is missing, left over or misshapen.
    """
    try:
        core, width = _core(config), int(config["input_dim"])
    except KeyError as error:
        raise ValueError(f"the configuration has no {error}") from None
    kind, tower = config["kind"], config["core"]
    arrays = {re.sub(r"^(var/)?[^/]*/", "", name): value for name, value in variables.items()}
    pooled = config.get("compressor") == "pool"
    module = AuthorsCore(core, width, tower.get("output_size"), loss=kind == "ct" and pooled)
    module.to(torch.as_tensor(next(iter(arrays.values()))).dtype if arrays else torch.float32)
    targets = dict(_targets(module, config))
    others = sorted(set(arrays) - set(targets))
    if isinstance(module.readout, nn.Linear) and len(others) == 1:
        targets[others[0]] = (module.readout.weight, _transposed)
    _complain("missing", sorted(set(targets) - set(arrays)))
    _complain("unknown", sorted(set(arrays) - set(targets)))
    with torch.no_grad():
        for name, (parameter, convert) in targets.items():
            value = convert(torch.as_tensor(arrays[name]))
            if value.shape != parameter.shape:
                raise ValueError(
                    f"variable {name!r} has shape {list(torch.as_tensor(arrays[name]).shape)}, "
                    f"which does not fit the configuration"
                )
            parameter.copy_(value)
    return module


def _complain(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{what} variables: {', '.join(names[:3])}{more}")


def _core(config: Mapping[str, Any]) -> CompressiveTransformer:
    kind, tower = config.get("kind"), config["core"]
    compressive = kind == "ct"
    extra = dict(config.get("compressor_config") or {})
    loss, pooling = extra.pop("loss", "mha"), extra.pop("pooling", "AVG")
    chunk, rate = int(config["chunk"]), int(config.get("rate") or 1)
    refused = {
        f"kind={kind!r}": kind not in ("ct", "xl"),
        f"layer_norm={tower['layer_norm']!r}": tower["layer_norm"] not in ("input", "output"),
        "key_size unlike value_size": tower["key_size"] != tower["value_size"],
        f"mlp_hidden_sizes={tower['mlp_hidden_sizes']}": len(tower["mlp_hidden_sizes"]) != 1,
        "causal=False": not tower.get("causal", True),
        "same_attention_length=True": bool(tower.get("same_attention_length")),
        "use_relative_positions=False": not tower.get("use_relative_positions", True),
        "shared_attention=True": bool(tower.get("shared_attention")),
        f"chunk={chunk}": chunk < 1 or (compressive and chunk % rate != 0),
        f"compressor={config.get('compressor')!r}": compressive
        and config.get("compressor") not in ("conv", "pool"),
        f"loss={loss!r}": loss not in ("mha", "ae"),
        f"pooling={pooling!r}": pooling not in ("AVG", "MAX"),
        f"compressor_config {extra}": any(extra.values()),
        "a memory of no step": not config.get("em" if compressive else "mem"),
    }
    for what, bad in refused.items():
        if bad:
            raise ValueError(
                f"{what} is out of range: from_authors takes TransformerXL, pooling, and convolution with the loss "
                "'mha' or 'ae', layer_norm 'input' or 'output', one MLP layer, and chunks of a multiple of the rate"
            )
    common: dict[str, Any] = {
        "d_model": tower["num_heads"] * tower["value_size"],
        "n_layers": tower["num_layers"],
        "n_heads": tower["num_heads"],
        "d_ff": tower["mlp_hidden_sizes"][0],
        "window": chunk,
        "norm": "pre" if tower["layer_norm"] == "input" else "post",
        "activation": "relu",
        "dropout": tower.get("dropout_rate", 0.0),
        "mask_empty": False,
    }
    if not compressive:
        core: CompressiveTransformer = TransformerXL(memory=int(config["mem"]), **common)
    else:
        pools = {"AVG": "mean", "MAX": "max"}
        pooled = config["compressor"] == "pool"
        core = CompressiveTransformer(
            memory=int(config["em"]),
            compressed=int(config["cm"]),
            rate=rate,
            compression=pools[pooling] if pooled else "conv",
            compression_loss="none"
            if pooled
            else {"mha": "attention", "ae": "auto_encoding"}[loss],
            slot_positions="authors",
            **common,
        )
    for layer in core.stack:
        layer.attention.clamp_distances(int(tower.get("clamp_time_range") or 0))
    return core


def _transposed(w: Tensor) -> Tensor:
    return w.T


def _same(w: Tensor) -> Tensor:
    return w


def _targets(
    module: AuthorsCore, config: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Tensor, Any]]]:
    """Their names below the module's own, with the tensor to fill and the conversion."""
    yield "mlp/linear_0/w", (module.project.weight, _transposed)
    yield "mlp/linear_0/b", (module.project.bias, _same)
    for i, layer in enumerate(module.core.stack):
        scope = f"transformer_tower/layer_{i}"
        width = layer.attention.kv.weight.shape[1]
        attention = layer.attention
        for suffix, norm in (("", layer.norm), ("_1", layer.norm_ff)):
            where = f"{scope}/residual_dropout_wrapper{suffix}/layer_norm"
            yield f"{where}/gamma", (norm.weight, _same)
            yield f"{where}/beta", (norm.bias, _same)
        where = f"{scope}/multihead_attention"
        yield f"{where}/query/linear/w", (attention.q.weight, _transposed)
        yield f"{where}/key/linear/w", (attention.kv.weight[:width], _transposed)
        yield f"{where}/value/linear/w", (attention.kv.weight[width:], _transposed)
        yield f"{where}/relative_keys/linear/w", (attention.position.weight, _transposed)
        yield f"{where}/r_w_bias", (attention.content_bias, _first)
        yield f"{where}/r_r_bias", (attention.position_bias, _first)
        yield f"{where}/linear/w", (attention.out.weight, _transposed)
        yield f"{where}/linear/b", (attention.out.bias, _same)
        for j, linear in enumerate(part for part in layer.ff if isinstance(part, nn.Linear)):
            yield f"{scope}/mlp/linear_{j}/w", (linear.weight, _transposed)
            yield f"{scope}/mlp/linear_{j}/b", (linear.bias, _same)
        if not layer.sizes.compressed:
            continue
        yield f"{where}/relative_keys_0/linear/w", (attention.slot_position.weight, _transposed)
        yield f"{where}/r_r_bias_0", (attention.slot_position_bias, _first)
        where = "conv_compressor" + (f"_{i}" if i else "")
        if isinstance(layer.compress, Convolution):
            yield f"{where}/conv_1d/w", (layer.compress.linear.weight, _kernel)
        if hasattr(layer, "decode"):
            yield f"{where}/conv_1d_transpose/w", (layer.decode.weight, _transposed_kernel)


def _first(w: Tensor) -> Tensor:
    return w[0]


def _kernel(w: Tensor) -> Tensor:
    """[c, in, out] as the weight [out, c in] of a linear map of c joined steps."""
    return w.permute(2, 0, 1).flatten(1)


def _transposed_kernel(w: Tensor) -> Tensor:
    """[1, c, out, in] as the weight [c out, in]."""
    return w[0].flatten(0, 1)
