"""The hash table of pointers and its keyed hash."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.router.table import TableProbe, hash_of


def test_a_table_without_items_owns_no_memory() -> None:
    table = TableProbe()
    assert table.capacity == 0
    assert len(table) == 0
    assert table.find(1, b"a") is None
    assert not table.remove(1, b"a")
    assert table.items() == []


def test_items_with_one_hash_are_told_apart_by_their_keys() -> None:
    table = TableProbe()
    for name in (b"a", b"b", b"c"):
        table.insert(7, name)
    assert table.find(7, b"b") == b"b"
    assert table.find(7, b"d") is None
    assert table.find(8, b"b") is None


def test_removal_in_the_middle_of_a_cluster_keeps_what_lies_behind_it() -> None:
    # All want the last cell of eight, so the cluster wraps round the end of the table.
    table = TableProbe()
    names = [b"%d" % number for number in range(5)]
    for name in names:
        table.insert(7, name)
    assert table.capacity == 8
    table.insert(0, b"home")
    assert table.remove(7, names[0])
    assert table.remove(7, names[2])
    assert [name for name in names if table.find(7, name)] == [names[1], names[3], names[4]]
    assert table.find(0, b"home") == b"home"


def test_a_table_grows_and_shrinks_with_its_items() -> None:
    table = TableProbe()
    names = [b"name %d" % number for number in range(10_000)]
    for name in names:
        table.insert(hash_of(1, 0, name), name)
    assert 10_000 < table.capacity <= 32_768
    for name in names[3:]:
        assert table.remove(hash_of(1, 0, name), name)
    assert table.capacity <= 32
    assert sorted(table.items()) == sorted(names[:3])
    for name in names[:3]:
        assert table.find(hash_of(1, 0, name), name) is name


def test_only_the_very_item_is_removed() -> None:
    table = TableProbe()
    first, second = bytes([65, 66, 67]), bytes(bytearray([65, 66, 67]))
    assert first is not second
    table.insert(3, first)
    assert not table.remove(3, second)
    table.insert(3, second)
    assert table.remove(3, first)
    assert table.find(3, first) is second


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 40), st.sampled_from([3, 8, 1000])),
        max_size=150,
    )
)
def test_a_table_behaves_like_a_dictionary(steps: list[tuple[bool, int, int]]) -> None:
    table = TableProbe()
    model: dict[bytes, int] = {}
    for is_insert, number, modulus in steps:
        # A coarse hash: long clusters, many equal hashes.
        key, hash_value = b"%d/%d" % (number, modulus), number % modulus
        stored = table.find(hash_value, key)
        assert (stored is not None) == (key in model)
        if is_insert and stored is None:
            table.insert(hash_value, key)
            model[key] = hash_value
        elif not is_insert and stored is not None:
            assert table.remove(hash_value, stored)
            del model[key]
        assert sorted(table.items()) == sorted(model)
        assert len(table) == len(model) <= table.capacity * 3 // 4
    assert all(table.find(hash_value, key) == key for key, hash_value in model.items())


def test_the_hash_depends_on_every_byte_the_length_the_context_and_the_seed() -> None:
    base = bytes(range(70))
    for length in range(70):
        data = base[:length]
        values = {hash_of(1, 2, data), hash_of(1, 3, data), hash_of(2, 2, data)}
        values.add(hash_of(1, 2, data + b"\x00"))
        for at in range(length):
            values.add(hash_of(1, 2, data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]))
        assert len(values) == length + 4


def test_the_hash_spreads_numbered_subjects_over_low_and_high_bits() -> None:
    hashes = [hash_of(9, 0, b"_INBOX.abcdefgh.%d" % number) for number in range(64 * 256)]
    for shift in (0, 29, 32, 58):
        cells = Counter(value >> shift & 63 for value in hashes)
        assert len(cells) == 64
        assert max(cells.values()) < 2 * 256
