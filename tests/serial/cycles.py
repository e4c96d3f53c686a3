"""Cycles of a graph, given as the edges of each node with what is known of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
Graph = Mapping[int, Mapping[int, K]]


def components(graph: Graph[K]) -> Iterator[set[int]]:
    """Strongly connected ones of two nodes or more: R. Tarjan, Depth-first Search and Linear Graph Algorithms, 1972."""
    numbers: dict[int, int] = {}
    lowest: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in list(graph):
        if root in numbers:
            continue
        path = [(root, iter(graph.get(root, ())))]
        numbers[root] = lowest[root] = len(numbers)
        stack.append(root)
        on_stack.add(root)
        while path:
            node, ends = path[-1]
            for end in ends:
                if end not in numbers:
                    numbers[end] = lowest[end] = len(numbers)
                    stack.append(end)
                    on_stack.add(end)
                    path.append((end, iter(graph.get(end, ()))))
                    break
                if end in on_stack:
                    lowest[node] = min(lowest[node], numbers[end])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == numbers[node]:
                    at = stack.index(node) if stack[-1] != node else len(stack) - 1
                    found = set(stack[at:])
                    del stack[at:]
                    on_stack -= found
                    if len(found) > 1:
                        yield found


def shortest_path(graph: Graph[K], begin: int, end: int, allowed: Collection[K]) -> list[int] | None:
    """The nodes from one to the other, over edges of these kinds only."""
    before = {begin: begin}
    queue = deque([begin])
    while queue:
        node = queue.popleft()
        if node == end:
            path = [node]
            while path[-1] != begin:
                path.append(before[path[-1]])
            return path[::-1]
        for to, kind in graph.get(node, {}).items():
            if kind in allowed and to not in before:
                before[to] = node
                queue.append(to)
    return None
