# SPDX-License-Identifier: Apache-2.0
"""How blocks agree who adds their parts up (csrc/plan_sums.cuh), in every order of two and three.

A model: what a block stores waits in a buffer of its own, which empties in any order, one word at
a time, and at fences as a whole. Every state that can be reached is looked at, over several
launches on the same memory with the same tag, as a captured graph replays them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

TAG, STALE = 7, 3  # a flag of this call, and of another
#: Steps of a block after its part is stored; "look" takes a step per flag, "add" one per part.
SOUND = ("part", "fence", "flag", "fence", "look", "fence", "add", "result", "clear")


class Block(NamedTuple):
    """Where a block is, what it has stored that others do not see yet, and the sum so far."""

    step: int = 0
    within: int = 0
    waiting: tuple[tuple[str, int], ...] = ()
    total: int = 0
    left: bool = False


class State(NamedTuple):
    """All blocks, memory (sorted), and the number of the launch."""

    blocks: tuple[Block, ...]
    memory: tuple[tuple[str, int], ...]
    launch: int = 0


def part_of(block: int, launch: int) -> int:
    return 10 ** (2 * block) * (launch + 1)


def load(state: State, number: int, place: str) -> int:
    """Its own stores first, the latest of them."""
    for at, value in reversed(state.blocks[number].waiting):
        if at == place:
            return value
    return dict(state.memory)[place]


def moved(state: State, number: int, block: Block) -> State:
    blocks = list(state.blocks)
    blocks[number] = block
    return state._replace(blocks=tuple(blocks))


def stored(block: Block, place: str, value: int) -> Block:
    return block._replace(waiting=(*block.waiting, (place, value)))


def emptied(state: State, number: int) -> Iterator[State]:
    """One waiting store becomes visible: of every place the oldest may."""
    block, seen = state.blocks[number], set()
    for i, (place, value) in enumerate(block.waiting):
        if place in seen:
            continue
        seen.add(place)
        rest = block.waiting[:i] + block.waiting[i + 1 :]
        memory = tuple(sorted((dict(state.memory) | {place: value}).items()))
        yield moved(state._replace(memory=memory), number, block._replace(waiting=rest))


def act(state: State, number: int, program: tuple[str, ...]) -> Iterator[State]:
    """The next step of a block, if it can take one."""
    block = state.blocks[number]
    if block.left or block.step == len(program):
        return
    what, count, at = program[block.step], len(state.blocks), block.within
    after = block._replace(step=block.step + 1, within=0)
    again = block._replace(within=at + 1)
    if what == "fence":
        if block.waiting:
            return  # until emptied
    elif what in ("part", "flag"):
        value = TAG if what == "flag" else part_of(number, state.launch)
        after = stored(after, f"{what} {number}", value)
    elif what == "look":
        if load(state, number, f"flag {count - 1 - at}") != TAG:
            after = block._replace(left=True)
        elif at + 1 < count:
            after = again
    elif what == "add":
        total = block.total + load(state, number, f"part {at}")
        after = (again if at + 1 < count else after)._replace(total=total)
    elif what == "result":
        after = stored(after, "result", block.total)
    elif what == "clear":
        after = stored(again if at + 1 < count else after, f"flag {at}", 0)
    yield moved(state, number, after)


def outcomes(blocks: int, launches: int, program: tuple[str, ...]) -> set[tuple[bool, bool]]:
    """Of all orders of steps: whether the result is right, and whether flags are left behind."""
    memory = {"result": -1}
    for n in range(blocks):
        memory |= {f"part {n}": -999, f"flag {n}": STALE}
    first = State((Block(),) * blocks, tuple(sorted(memory.items())))
    waiting, seen, found = [first], {first}, set()
    while waiting:
        state = waiting.pop()
        following = [s for n in range(blocks) for s in emptied(state, n)]
        following += [s for n in range(blocks) for s in act(state, n, program)]
        if not following:
            memory = dict(state.memory)
            right = memory["result"] == sum(part_of(n, state.launch) for n in range(blocks))
            found.add((right, TAG in memory.values()))
            if state.launch + 1 < launches:
                following.append(State((Block(),) * blocks, state.memory, state.launch + 1))
        for state in following:
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return found


@pytest.mark.parametrize(("blocks", "launches"), [(1, 3), (2, 3), (3, 1)])
def test_every_order_leaves_the_sum_and_no_flag(blocks: int, launches: int) -> None:
    assert outcomes(blocks, launches, SOUND) == {(True, False)}


def without(index: int) -> tuple[str, ...]:
    return SOUND[:index] + SOUND[index + 1 :]


BUGS = {
    "flag before part": (without(1), 1),
    "looks before its flag is seen": (without(3), 1),
    "flags stay for the next replay": (without(8), 2),
    "adds before it looks": (
        ("part", "fence", "flag", "fence", "add", "look", "result", "clear"), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_shows_in_some_order(bug: str) -> None:
    """Two blocks are enough; flags that stay do no harm before the next launch."""
    program, launches = BUGS[bug]
    assert not all(right for right, _ in outcomes(2, launches, program))
    assert launches == 1 or all(right for right, _ in outcomes(2, 1, program))
