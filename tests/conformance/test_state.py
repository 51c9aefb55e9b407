"""The keyed store of any runtime: what `get` and `scan` show, compared with a plain dict (promise 3)."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.runtime import Commit

KEYS = [
    b"",
    b"\x00",
    b"a",
    b"a\x00",
    b"a\xff",
    b"a\xff\xff",
    b"a\xff\xffz",
    b"ab",
    b"b",
    b"\xfe\xff",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
    b"\xff\xffa",
]


def put(runtime, partition=1, **kinds):
    runtime.commit(Commit([], {("fold", partition): kinds["writes"]}, {}, 1))


def keys(runtime, *args, **named):
    return [key for key, _ in runtime.scan("fold", 1, *args, **named)]


def test_what_is_written_can_be_read_overwritten_and_deleted(runtime):
    assert runtime.get("fold", 1, b"k") is None
    put(runtime, writes={b"k": b"1", b"": b"empty key", b"z": b""})
    assert (runtime.get("fold", 1, b"k"), runtime.get("fold", 1, b""), runtime.get("fold", 1, b"z")) == (b"1", b"empty key", b"")
    put(runtime, writes={b"k": b"2", b"z": None, b"never": None})
    assert (runtime.get("fold", 1, b"k"), runtime.get("fold", 1, b"z"), runtime.get("fold", 1, b"never")) == (b"2", None, None)
    put(runtime, writes={b"k": None})
    assert runtime.get("fold", 1, b"k") is None
    assert keys(runtime, b"") == [b""]


def test_many_keys_are_answered_in_the_order_they_were_asked(runtime):
    put(runtime, writes={b"%d" % number: b"v%d" % number for number in range(0, 2000, 2)})
    asked = [b"%d" % number for number in range(1999, -1, -1)] + [b"4", b"", b"4"]
    assert runtime.get_many("fold", 1, asked) == [runtime.get("fold", 1, key) for key in asked]
    assert runtime.get_many("fold", 1, []) == []
    assert runtime.get_many("fold", 0, [b"4"]) == [None]


def test_stores_of_other_partitions_and_tasks_are_other_stores(runtime):
    put(runtime, partition=1, writes={b"k": b"1"})
    put(runtime, partition=2, writes={b"k": b"2"})
    runtime.commit(Commit([], {("tell", 1): {b"k": b"3"}}, {}, 1))
    assert [runtime.get("fold", partition, b"k") for partition in range(4)] == [None, b"1", b"2", None]
    assert list(runtime.scan("tell", 1, b"")) == [(b"k", b"3")]
    assert list(runtime.scan("tell", 0, b"")) == []


def test_scan_shows_the_keys_with_the_prefix_in_byte_order(runtime):
    put(runtime, writes={key: key + b"!" for key in reversed(KEYS)})
    assert list(runtime.scan("fold", 1, b"")) == [(key, key + b"!") for key in sorted(KEYS)]
    assert keys(runtime, b"a") == [b"a", b"a\x00", b"ab", b"a\xff", b"a\xff\xff", b"a\xff\xffz"]
    assert keys(runtime, b"a\xff") == [b"a\xff", b"a\xff\xff", b"a\xff\xffz"]
    assert keys(runtime, b"\xff") == [b"\xff", b"\xff\x00", b"\xff\xff", b"\xff\xffa"]
    assert keys(runtime, b"\xff\xff") == [b"\xff\xff", b"\xff\xffa"]
    assert keys(runtime, b"\xfe") == [b"\xfe\xff"]
    assert keys(runtime, b"c") == []


def test_after_is_exclusive_and_may_lie_outside_the_prefix(runtime):
    put(runtime, writes=dict.fromkeys(KEYS, b"v"))
    assert keys(runtime, b"a", after=b"a") == [b"a\x00", b"ab", b"a\xff", b"a\xff\xff", b"a\xff\xffz"]
    assert keys(runtime, b"a", after=b"a\xff\x01") == [b"a\xff\xff", b"a\xff\xffz"]
    assert keys(runtime, b"a", after=b"\x00") == keys(runtime, b"a")
    assert keys(runtime, b"a", after=b"b") == []
    assert keys(runtime, b"", after=b"\xff\xff") == [b"\xff\xffa"]
    assert keys(runtime, b"a", limit=0) == []
    assert keys(runtime, b"", limit=3) == sorted(KEYS)[:3]


def test_a_long_scan_is_whole_and_keeps_its_limit(runtime):
    many = [b"p%05d" % number for number in range(1500)]
    put(runtime, writes={key: b"v" for key in [*many, b"o", b"q"]})
    assert keys(runtime, b"p") == many
    assert keys(runtime, b"p", limit=700) == many[:700]
    assert keys(runtime, b"p", after=many[511], limit=512) == many[512:1024]


def test_an_abandoned_scan_disturbs_nobody(runtime):
    put(runtime, writes={b"%04d" % number: b"v" for number in range(600)})
    abandoned = runtime.scan("fold", 1, b"")
    assert next(abandoned) == (b"0000", b"v")
    put(runtime, writes={b"0001": None, b"0002": b"w"})
    assert keys(runtime, b"000", limit=3) == [b"0000", b"0002", b"0003"]


SHORT = st.binary(max_size=3) | st.sampled_from(KEYS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(st.dictionaries(SHORT, st.none() | st.binary(max_size=4), max_size=8), max_size=5),
    asks=st.lists(st.tuples(SHORT, SHORT, st.integers(0, 9)), max_size=8),
)
def test_the_store_is_a_sorted_dict(runtime, writes, asks):
    model: dict[bytes, bytes] = {}
    # One runtime serves all examples, so each begins by emptying the store.
    put(runtime, writes=dict.fromkeys(keys(runtime, b"")))
    for changes in writes:
        put(runtime, writes=changes)
        model.update({key: value for key, value in changes.items() if value is not None})
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
    assert list(runtime.scan("fold", 1, b"")) == sorted(model.items())
    for prefix, after, limit in asks:
        expected = [pair for pair in sorted(model.items()) if pair[0].startswith(prefix) and (not after or pair[0] > after)][
            :limit
        ]
        assert list(runtime.scan("fold", 1, prefix, after, limit)) == expected
        assert runtime.get("fold", 1, prefix) == model.get(prefix)
