"""Parts on disk: what is kept is not computed again, and what is damaged is."""

from pathlib import Path

import numpy as np
import pytest

from cskd_bench.errors import UserError
from cskd_bench.transfer.parts import Parts

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


def parts(folder: Path, part_size: int = 4) -> Parts:
    return Parts(folder, "key", len(ROWS), part_size)


def test_parts_that_are_kept_are_not_missing_for_another_process(tmp_path: Path) -> None:
    first = parts(tmp_path)
    assert first.missing() == [range(0, 4), range(4, 8), range(8, 10)]
    first.put(range(8, 10), ROWS[8:10])
    second = parts(tmp_path)
    assert second.missing() == [range(0, 4), range(4, 8)]
    for part in second.missing():
        second.put(part, ROWS[part.start : part.stop])
    assert parts(tmp_path).missing() == []
    assert np.array_equal(parts(tmp_path).read(), ROWS)
    assert np.array_equal(parts(tmp_path).get(range(4, 8)), ROWS[4:8])


def test_a_damaged_part_is_set_aside_and_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = parts(tmp_path)
    for part in kept.missing():
        kept.put(part, ROWS[part.start : part.stop])
    file = tmp_path / "key" / "00000004-00000008.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert parts(tmp_path).missing() == [range(4, 8)]
    assert "damaged" in capsys.readouterr().err
    assert len(list(file.parent.glob("00000004-00000008.corrupt-*"))) == 1


def test_rows_of_another_number_are_damage(tmp_path: Path) -> None:
    kept = parts(tmp_path)
    kept.put(range(0, 4), ROWS[:4])
    (tmp_path / "key" / "00000000-00000004.npz").replace(tmp_path / "key" / "00000008-00000010.npz")
    assert range(8, 10) in parts(tmp_path).missing()


def test_reading_before_all_is_there_names_the_part(tmp_path: Path) -> None:
    kept = parts(tmp_path)
    kept.put(range(0, 4), ROWS[:4])
    with pytest.raises(UserError, match="00000004-00000008"):
        kept.read()


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 to 7 are not finite"):
        parts(tmp_path).put(range(4, 8), np.full((4, 2), np.nan, np.float32))


@pytest.mark.parametrize("rows", [np.array(["a"] * 4), np.zeros(4, "M8[s]"), np.zeros(4, "V2")])
def test_a_part_of_no_numbers_is_set_aside(
    tmp_path: Path, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").mkdir()
    np.savez(tmp_path / "key" / "00000000-00000004.npz", rows=rows)
    assert range(0, 4) in parts(tmp_path).missing()
    assert "no numbers" in capsys.readouterr().err


def test_parts_with_rows_of_different_shapes_are_refused(tmp_path: Path) -> None:
    kept = parts(tmp_path)
    for part in kept.missing():
        kept.put(part, np.zeros((len(part), 2 if part.start else 3)))
    with pytest.raises(UserError, match=r"rows of different shapes \(\(2,\), \(3,\)\); remove the folder"):
        kept.read()
