"""The state of an Atari game's emulator, its sticky actions included."""

from __future__ import annotations

from typing import Any

import ale_py

HELD = 24
"""Frames that an action is held until it is sure to be the one that sticks: a frame repeats another with at most 1/4
in gymnasium's games."""
FOLLOWED = 10


def emulator_state(ale: ale_py.ALEInterface) -> dict[str, Any]:
    """ale-py's own state, and which action the next frame would repeat, which is not in it.

    That one cannot be asked for: it is found by following the game for some frames, once as it is and once after each
    action was held; those that lead to the same memory are the same.
    """
    state = ale.cloneState(include_rng=True)
    if not ale.getFloat("repeat_action_probability"):
        return {"state": state.serialize(), "sticks": None}
    expected = follow(ale)
    for action in ale.getMinimalActionSet() + ale.getLegalActionSet():
        hold(ale, action)
        ale.restoreState(state)
        if follow(ale) == expected:
            break
    hold(ale, action)
    ale.restoreState(state)
    return {"state": state.serialize(), "sticks": action.value}


def load_emulator(ale: ale_py.ALEInterface, value: dict[str, Any]) -> None:
    if value["sticks"] is not None:
        hold(ale, ale_py.Action(value["sticks"]))
    ale.restoreState(ale_py.ALEState(value["state"]))


def hold(ale: ale_py.ALEInterface, action: ale_py.Action) -> None:
    for _ in range(HELD):
        if ale.game_over():  # a game that is over takes no action
            ale.reset_game()
        ale.act(action)


def follow(ale: ale_py.ALEInterface) -> list[bytes]:
    """The machine's memory in each of the next frames, in which nothing is asked for."""
    memory = []
    for _ in range(FOLLOWED):
        ale.act(ale_py.Action.NOOP)
        memory.append(ale.getRAM().tobytes())
    return memory
