"""Fitting a small Cosmos tokenizer on recordings, through the pool: the pooled latents must carry the picture.

The decoder sees pooled, normalised latents (repeated back to the grid) with a little noise, so that what survives is
what the dynamics and the heads will be given. The normalisation is folded into the encoder's last convolution at the
end: raw pooled latents of the fitted tokenizer have mean 0 and standard deviation 1 by channel on the training frames.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastdreamer_kernels import latent_pool
from torch import Tensor, nn

from fastdreamer.config import Config, TokenizerConfig, TokenizerFitConfig, TrainConfig
from fastdreamer.errors import Stopped, UserError
from fastdreamer.system.files import atomic_directory
from fastdreamer.system.progress import track
from fastdreamer.tokenizer.cosmos import WEIGHTS_FILE, build_random, round_to_half, write_autoencoder
from fastdreamer.tokenizer.fetch import FILES
from fastdreamer.tokenizer.fitting.bottleneck import Bottleneck, DenseDecoder, shrink
from fastdreamer.tokenizer.fitting.footage import read_footage
from fastdreamer.tokenizer.fitting.initial import start_linear
from fastdreamer.tokenizer.fitting.origins import refit_command
from fastdreamer.tokenizer.fitting.quality import Episodes, psnr_of, psnr_table
from fastdreamer.tokenizer.model_card import CARD, file_hashes
from fastdreamer.tokenizer.preprocess import preprocess

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

FITTED = ("steps", "encoder_share", "batch_size", "learning_rate")  # settings of the fit that its card notes
ENCODER_RATE, DENSE_RATE = 0.1, 0.1  # shares of the learning rate: what starts well moves slowly


def fit_tokenizer(config: Config, recordings: Path, out: Path) -> dict[str, Any]:
    """Train the described architecture on recordings and write it to `out` in the diffusers layout with card.json.

    Uses `config.tokenizer` (architecture, image size, pool) and `config.tokenizer_fit`; episodes are held out as in
    the latent store. `out` is replaced as a whole, at the end, unless another process wrote it meanwhile.

    Returns:
        The card: data, steps, seconds and the PSNR table (dB, held-out frames, beside mean and repeated frame).

    Raises:
        UserError: if there are no usable recordings, episodes are shorter than a window, or `out` cannot be written or
            holds anything but a tokenizer.
    """
    command = refit_command(config, recordings, out)  # first: what can fail must not fail after the long work
    others = sorted({path.name for path in out.iterdir()} - {CARD, *FILES}) if out.is_dir() else []
    if others:
        raise UserError(f"{out} would be replaced, and holds {others[0]!r} besides a tokenizer: choose another --out")
    with atomic_directory(out, replace=True) as folder:
        return _fit(config, recordings, folder, command)


def _fit(config: Config, recordings: Path, folder: Path, command: str) -> dict[str, Any]:
    """Writes the tokenizer into `folder` and returns its card."""
    train, held_out, data = read_footage(config, recordings)
    device = torch.device("cuda" if config.device in ("auto", "cuda") and torch.cuda.is_available() else "cpu")
    model = build_random(config.tokenizer).to(device)
    bottleneck = Bottleneck(model, config.tokenizer)
    draw = _sampler(train, config.tokenizer, config.tokenizer_fit.batch_size, config.seed, device)
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        start_linear(model, draw, config.tokenizer.pool)
        # Convolutions in bf16: as told, or with `auto` where the device has the instructions.
        is_fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        bf16 = config.precision == "bf16" or (config.precision == "auto" and is_fast)
        dense = optimise(bottleneck, draw, config.tokenizer_fit, bf16)
    _fold_normalisation(model, bottleneck, draw)
    round_to_half(model)
    if wrong := next((name for name, value in model.state_dict().items() if not bool(value.isfinite().all())), ""):
        raise UserError(
            f"the fitted {wrong} is not finite in half precision, so nothing was written; "
            f"try tokenizer_fit.learning_rate below {config.tokenizer_fit.learning_rate:g}"
        )
    seconds = time.perf_counter() - began
    sizes = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("encoder", "decoder")}
    card = {
        **data,
        **{name: getattr(config.tokenizer, name) for name in ("frames_per_latent", "window", "image_size", "pool")},
        "parameters": sizes,
        **{name: getattr(config.tokenizer_fit, name) for name in FITTED},
        "seed": config.seed,
        "seconds": round(seconds, 1),
        "device": f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "psnr_db": psnr_table(bottleneck, train, held_out, config.tokenizer, dense),
        "command": command,
    }
    write_autoencoder(model, folder)
    card |= {"bytes": (folder / WEIGHTS_FILE).stat().st_size, "sha256": file_hashes(folder)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="ascii")
    return card


def optimise(
    bottleneck: Bottleneck, draw: Callable[[], Tensor], config: TokenizerFitConfig, bf16: bool
) -> DenseDecoder | None:
    """Train encoder and decoder on the squared error; `draw` gives batches of clips in [-1, 1].

    Single frames: the encoder learns with a dense decoder in the first `encoder_share` of the steps, the convolutional
    decoder follows on the finished encoder in the rest. Longer clips train both together. Cosmos trains on L1 first;
    here the many small errors of textures would outweigh the few large ones of creatures and tools, which are what a
    policy must see.

    Returns:
        The dense decoder, which belongs to no tokenizer but says what the latents hold; None for longer clips.
    """
    model, norm = bottleneck.model, bottleneck.norm
    encoder = [*model.encoder.parameters(), *model.quant_conv.parameters()]
    decoder = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    bottleneck.train()
    if not bottleneck.is_single:
        together = lambda frames: (bottleneck(frames).float() - frames).square().mean()  # noqa: E731
        _descend("fit", [(1.0, decoder), (ENCODER_RATE, encoder)], together, draw, config, config.steps, bf16, norm)
        return None

    dense = DenseDecoder().to(encoder[0].device)

    def pairs() -> tuple[Tensor, Tensor]:
        frames = draw()
        return bottleneck.encode(frames)[:, 0], shrink(frames)

    def by_dense(frames: Tensor) -> Tensor:
        return (dense(bottleneck.encode(frames)[:, 0]).float() - shrink(frames)).square().mean()

    def by_decoder(frames: Tensor) -> Tensor:
        with torch.no_grad():
            latents = bottleneck.encode(frames)
        return (bottleneck.decode(latents).float() - frames).square().mean()

    dense.solve(pairs)
    first = max(1, round(config.encoder_share * config.steps))
    rates = [(ENCODER_RATE, encoder), (DENSE_RATE, [*dense.parameters()])]
    _descend("fit encoder", rates, by_dense, draw, config, first, bf16, norm)
    rest = config.steps - first
    _descend("fit decoder", [(1.0, decoder)], by_decoder, draw, config, rest, bf16, norm)
    return dense


def _descend(
    title: str,
    rates: Sequence[tuple[float, list[nn.Parameter]]],
    loss_of: Callable[[Tensor], Tensor],
    draw: Callable[[], Tensor],
    config: TrainConfig,
    total: int,
    bf16: bool,
    norm: nn.Module,
) -> None:
    """AdamW with linear warm-up and cosine decay; `rates` are shares of the learning rate, each with its parameters.

    A step whose loss or gradient is not finite is left out: parameters, moments and `norm` stay as they were. After
    `max_skipped` such steps in a row it is `Stopped`.
    """
    groups = [{"params": parameters, "lr": share * config.learning_rate} for share, parameters in rates]
    optimizer = torch.optim.AdamW(groups, config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay)
    own_rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for _, group in rates for p in group]
    warmup = min(config.warmup_steps, total // 2)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        decay = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        return config.final_rate + (1 - config.final_rate) * decay

    skipped = in_a_row = 0
    with track(title, total=total, unit="steps") as bar:
        for step in range(total):
            for group, own in zip(optimizer.param_groups, own_rates, strict=True):
                group["lr"] = own * rate(step)
            before = [buffer.clone() for buffer in norm.buffers()]
            frames = draw()
            with torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(frames)
            loss.backward()
            size = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            is_sound = bool((loss.detach() + size).isfinite())
            if is_sound:
                optimizer.step()
            else:
                for buffer, kept in zip(norm.buffers(), before, strict=True):
                    buffer.copy_(kept)
            skipped, in_a_row = skipped + (not is_sound), 0 if is_sound else in_a_row + 1
            optimizer.zero_grad(set_to_none=True)
            if in_a_row >= config.max_skipped:
                raise Stopped(
                    f"{title} stopped at step {step + 1}: the loss or gradient of its last {in_a_row} steps was not "
                    f"finite, and nothing was written; try tokenizer_fit.learning_rate below {config.learning_rate:g}"
                )
            if is_sound and (step % config.log_every == 0 or step == total - 1):
                bar.advance(1, psnr=psnr_of(float(loss.detach()) / 4))  # pixels span 2
            else:
                bar.advance(1)
    if skipped:
        print(f"{title}: {skipped} of {total} steps left out, for their loss or gradient was not finite", flush=True)


@torch.no_grad()
def _fold_normalisation(model: AutoencoderKLCosmos, bottleneck: Bottleneck, draw: Callable[[], Tensor]) -> None:
    """Measure mean and deviation with the final weights and fold them into quant_conv; the norm becomes identity."""
    bottleneck.train()
    batches = [latent_pool(bottleneck.network._encode(draw()), bottleneck.pool) for _ in range(32)]
    pooled = torch.cat([batch.flatten(0, 2) for batch in batches])
    bottleneck.eval()
    std, mean = torch.std_mean(pooled.double(), 0)
    scale = (1 / std.clamp_min(1e-6)).float()
    model.quant_conv.weight.mul_(scale.view(-1, 1, 1, 1, 1))
    assert model.quant_conv.bias is not None
    model.quant_conv.bias.sub_(mean.float()).mul_(scale)
    assert bottleneck.norm.running_mean is not None and bottleneck.norm.running_var is not None
    bottleneck.norm.running_mean.zero_()
    bottleneck.norm.running_var.fill_(1 - bottleneck.norm.eps)


def _sampler(
    episodes: Episodes, config: TokenizerConfig, batch_size: int, seed: int, device: torch.device
) -> Callable[[], Tensor]:
    """Batches of random windows (single frames when c is 1), preprocessed, from all episodes evenly by frame."""
    window = config.window
    usable = [frames for frames in episodes.values() if len(frames) >= window]
    if not usable:
        raise UserError(f"no training episode has {window} frames; record longer ones or lower tokenizer.window")
    starts = [(e, s) for e, frames in enumerate(usable) for s in range(len(frames) - window + 1)]
    rng = np.random.default_rng(seed)

    def draw() -> Tensor:
        picks = rng.integers(len(starts), size=batch_size)
        clips = np.stack([usable[e][s : s + window] for e, s in (starts[i] for i in picks)])
        frames = torch.from_numpy(clips).to(device).permute(0, 4, 1, 2, 3)
        return preprocess(frames, config.clock, config.image_size, "bcthw")

    return draw
