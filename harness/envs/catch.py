"""The module of `env.id = "harness.envs.catch:Catch-v0"`: users' configs name it, wherever the game's code lies."""

from harness.envs.games.catch import Catch

__all__ = ["Catch"]
