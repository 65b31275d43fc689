"""The histogram of `trio-msg bench`: within 3 %, and nothing is forgotten."""

import re

import hypothesis.strategies as st
from hypothesis import given

from msg.bench.picture import nines, picture, show_us
from msg.bench.spread import Spread, bucket_of, top_of

durations = st.integers(min_value=0, max_value=10**11)


@given(durations)
def test_a_bucket_holds_its_numbers_to_three_percent(us):
    top = top_of(bucket_of(us))
    assert us <= top <= us * (1 + 1 / 32) + 1
    assert bucket_of(top) == bucket_of(us)
    assert bucket_of(top + 1) == bucket_of(us) + 1


@given(st.lists(durations, min_size=1), st.floats(min_value=0.1, max_value=100))
def test_percentiles_are_those_of_the_sorted_list(all_us, percent):
    spread = Spread()
    for us in all_us:
        spread.add(us)
    rank = next(i for i in range(1, len(all_us) + 1) if i >= len(all_us) * percent / 100)
    assert bucket_of(spread.percentile(percent)) == bucket_of(sorted(all_us)[rank - 1])
    assert spread.curve()[-1][0] == 100


def test_spreads_add_up():
    one, two = Spread(), Spread()
    one.add(10, times=3)
    two.add(1000)
    both = Spread().merge([one, two])
    assert (both.count, both.percentile(75), both.percentile(75.1)) == (
        4,
        10,
        top_of(bucket_of(1000)),
    )
    assert both.summary()["max"] >= 1000
    assert Spread().summary() == {}
    assert Spread().percentile(50) == 0


def test_the_picture_shows_each_curve_and_nothing_of_the_title_is_markup():
    spread = Spread()
    for us in (50, 60, 70, 5000):
        spread.add(us)
    svg = picture("a <b>", "about & so on", [("arrived", spread), ("acked", Spread())])
    assert svg.count('class="line') == 1
    assert "<b>" not in svg
    assert "a &lt;b&gt;" in svg
    numbers = [float(n) for n in re.findall(r"[ML](-?[\d.]+) ", svg)]
    assert all(0 <= n <= 760 for n in numbers)


def test_scales():
    assert nines(90) == 1
    assert nines(100) == 5
    assert [show_us(us) for us in (85, 1200, 3_400_000)] == ["85 us", "1.2 ms", "3.4 s"]
