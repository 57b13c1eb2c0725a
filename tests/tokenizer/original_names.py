"""A network's weights as NVIDIA writes them, made from a walk over its modules: the tests' side of `layouts`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def original_names(model: nn.Module, unused: bool = True) -> dict[str, Tensor]:
    """The model's weights in NVIDIA's names, from a walk over its modules; with the convolutions that nothing uses."""
    state: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{kind}": getattr(module, kind).detach() for kind in ("weight", "bias")})

    def norm(name: str, module: nn.Module) -> None:
        put(f"{name}.norm", module.norm)

    def pair(name: str, module: nn.Module) -> None:
        put(f"{name}.0.conv3d", module.conv_s)
        put(f"{name}.1.conv3d", module.conv_t)

    def block(name: str, module: nn.Module) -> None:
        for i in "12":
            norm(f"{name}.norm{i}", getattr(module, f"norm{i}"))
            pair(f"{name}.conv{i}", getattr(module, f"conv{i}"))
        if not isinstance(module.conv_shortcut, nn.Identity):
            put(f"{name}.nin_shortcut.conv3d", module.conv_shortcut)

    def attention(name: str, space: nn.Module, time: nn.Module) -> None:
        for i, module in enumerate((space, time)):
            norm(f"{name}.{i}.norm", module.norm)
            for old in "qkv":
                put(f"{name}.{i}.{old}.conv3d", getattr(module, f"to_{old}"))
            put(f"{name}.{i}.proj_out.conv3d", module.to_out[0])

    def level(name: str, module: nn.Module, samplers: nn.ModuleList | None, verb: str) -> None:
        for j, resnet in enumerate(module.resnets):
            block(f"{name}.block.{j}", resnet)
        for j, (space, time) in enumerate(zip(module.attentions, module.temp_attentions, strict=True)):
            if space is not None:
                attention(f"{name}.attn.{j}", space, time)
        for sampler in samplers or ():
            for conv in ("conv1", "conv2", "conv3"):
                if not isinstance(getattr(sampler, conv), nn.Identity):
                    put(f"{name}.{verb}.{conv}.conv3d", getattr(sampler, conv))
                elif unused:
                    put(f"{name}.{verb}.{conv}.conv3d", nn.Conv3d(8, 8, 1))

    for half, verb in (("encoder", "down"), ("decoder", "up")):
        network = getattr(model, half)
        pair(f"{half}.conv_in", network.conv_in)
        block(f"{half}.mid.block_1", network.mid_block.resnets[0])
        attention(f"{half}.mid.attn_1", network.mid_block.attentions[0], network.mid_block.temp_attentions[0])
        block(f"{half}.mid.block_2", network.mid_block.resnets[1])
        levels = list(getattr(network, f"{verb}_blocks"))
        for i, module in enumerate(levels if half == "encoder" else levels[::-1]):
            level(f"{half}.{verb}.{i}", module, getattr(module, f"{verb}samplers"), f"{verb}sample")
        norm(f"{half}.norm_out", network.norm_out)
        pair(f"{half}.conv_out", network.conv_out)
        patcher = "patcher3d" if half == "encoder" else "unpatcher3d"
        for buffer in ("wavelets", "_arange", "patch_size_buffer"):
            state[f"{half}.{patcher}.{buffer}"] = torch.ones(2)
    put("quant_conv.conv3d", model.quant_conv)
    put("post_quant_conv.conv3d", model.post_quant_conv)
    return state


class _Node(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def write_jit(state: dict[str, Tensor], path: Path) -> None:
    root = _Node()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        node = root
        for folder in folders:
            if folder not in node._modules:
                node.add_module(folder, _Node())
            node = node._modules[folder]
        node.register_buffer(leaf, tensor.bfloat16())
    torch.jit.save(torch.jit.script(root), path)


def write_layout(layout: str, state: dict[str, Tensor], folder: Path) -> Path:
    """Write one layout; the path that tokenizer.weights takes."""
    if layout.startswith("pt"):
        _, *wrappers = layout.split(" ")
        tree: dict[str, object] = dict(state)
        for wrapper in reversed(wrappers):
            tree = {wrapper: tree, "iteration": 5}
        torch.save(tree, folder / "model.pt")
        return folder / "model.pt"
    if layout == "jit":
        write_jit(state, folder / "autoencoder.jit")
        return folder
    for half, prefixes in (("encoder", ("encoder.", "quant_conv.")), ("decoder", ("decoder.", "post_quant_conv."))):
        write_jit({name: t for name, t in state.items() if name.startswith(prefixes)}, folder / f"{half}.jit")
    return folder / "encoder.jit" if layout == "half of two" else folder
