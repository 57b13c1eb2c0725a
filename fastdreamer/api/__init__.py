"""A trained run as the plain objects of a notebook: what it holds, and modules that are called with tensors.

    import fastdreamer

    run = fastdreamer.open_run("runs/demo")
    run.config.phase(1).steps, run.checkpoints, run.store.episodes
    run.tokenizer.encode(frames)["latents"]            # (b, l, 16, 16)
    run.world_model, run.agent                         # the averaged weights; the world model is frozen
    run.policy_head(latents.flatten(2))["probs"]       # (b, l, labels)
    run.imagine(latents[:, :4])["advantages"]          # (b, h)
    player = run.player()
    player.act(frames)                                 # (e, c, k): the next chunk of actions of every episode

The latents here are the raw, pooled ones of the store; normalising is the world model's own business.
"""

from fastdreamer.api.opened_run import Run, diagnose_phase, open_run
from fastdreamer.api.tensor_modules import Player

__all__ = ["Player", "Run", "diagnose_phase", "open_run"]
