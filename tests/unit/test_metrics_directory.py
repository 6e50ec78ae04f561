"""The counts of workers that ended: added up into a file that the library for Prometheus takes for its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from penguindome_server.metrics_directory import worker_ended

LONG = '["a", "b", {"endpoint": "submit"}, "Help."]' * 200
KEYS = ["", *("k" * length for length in range(1, 20)), "\u00e4", "\u540d\u524d", LONG]
COUNTS: Any = MmapedDict  # the library carries no types for this


def write(path: Path, counts: dict[str, float]) -> None:
    file = COUNTS(str(path))
    for key, value in counts.items():
        file.write_value(key, value, 0.0)
    file.close()


def read(path: Path) -> dict[str, float]:
    return {key: value for key, value, _when, _position in COUNTS.read_all_values_from_file(str(path))}


def test_what_ended_workers_counted_is_added_up_in_a_file_of_the_librarys(tmp_path: Path) -> None:
    first = {key: float(number) for number, key in enumerate(KEYS)}
    write(tmp_path / "counter_1.db", first)
    worker_ended(tmp_path, 1)
    assert read(tmp_path / "counter_ended.db") == first
    write(tmp_path / "counter_2.db", {"k": 0.5, "another": 2.0})
    worker_ended(tmp_path, 2)
    assert read(tmp_path / "counter_ended.db") == {**first, "k": 1.5, "another": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["counter_ended.db"]


def test_the_library_goes_on_writing_where_the_sum_ends(tmp_path: Path) -> None:
    counts = {key: float(number) for number, key in enumerate(KEYS)}
    write(tmp_path / "histogram_1.db", counts)
    worker_ended(tmp_path, 1)
    write(tmp_path / "histogram_ended.db", {"k": 7.0, "one more": 8.0})
    assert read(tmp_path / "histogram_ended.db") == {**counts, "k": 7.0, "one more": 8.0}


def test_a_worker_that_counted_nothing_leaves_an_empty_sum(tmp_path: Path) -> None:
    write(tmp_path / "counter_1.db", {})
    worker_ended(tmp_path, 1)
    assert read(tmp_path / "counter_ended.db") == {}
