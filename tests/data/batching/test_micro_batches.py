from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from lora_studio.data.batching.micro_batches import cut_by_length, cut_end_to_end

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8).map(lambda sizes: sorted(sizes, reverse=True))


def padded(parts: list[tuple[int, ...]], lengths: list[int], pass_tokens: int) -> int:
    return sum(len(part) * max(lengths[row] for row in part) + pass_tokens for part in parts)


@settings(max_examples=150, deadline=None)
@given(lengths=SIZES, size=st.integers(1, 8), pass_tokens=st.integers(0, 80))
def test_no_other_way_to_cut_padded_rows_takes_less_time(lengths: list[int], size: int, pass_tokens: int) -> None:
    rows = tuple(range(len(lengths)))
    found = cut_by_length(rows, lengths, size, pass_tokens)
    assert [row for part in found for row in part] == list(rows)
    assert all(len(part) <= size for part in found)
    ways = (
        [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(lengths)])]
        for count in range(len(lengths))
        for cuts in combinations(range(1, len(lengths)), count)
    )
    least = min(padded(way, lengths, pass_tokens) for way in ways if all(len(part) <= size for part in way))
    assert padded(found, lengths, pass_tokens) == least


@settings(max_examples=150, deadline=None)
@given(lengths=SIZES, size=st.integers(1, 8), most=st.integers(1, 100))
def test_rows_end_to_end_are_each_taken_once_within_the_bounds_and_no_two_parts_would_make_one(
    lengths: list[int],
    size: int,
    most: int,
) -> None:
    found = cut_end_to_end(range(len(lengths)), lengths, size, most)
    assert sorted(row for part in found for row in part) == list(range(len(lengths)))
    tokens = [sum(lengths[row] for row in part) for part in found]
    assert all(len(part) <= size and (held <= most or len(part) == 1) for part, held in zip(found, tokens))
    assert all(
        tokens[one] + tokens[other] > most or len(found[one]) + len(found[other]) > size
        for one, other in combinations(range(len(found)), 2)
    )
