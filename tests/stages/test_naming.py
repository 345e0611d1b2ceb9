"""The blind naming test: the key solves the sheet, nothing else does, and answers are scored by it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featspace.cli import main
from featspace.stages.naming import GAP, NONE, run_score, run_sheet
from featspace.utils.errors import FeatspaceError, UsageError

SIDE = 64
IDS = ("cat", "cup", "rocket")


@pytest.fixture
def folders(tmp_path):
    """Two folders of three targets, one and two samples; every image is of one color of its own."""
    found, colors = [], np.random.default_rng(0).permutation(np.arange(9 * 3, dtype=np.uint8) * 9).reshape(9, 3)
    for folder, samples in (("clip", 1), ("vit", 2)):
        (tmp_path / folder).mkdir()
        rows = [f"{id},{sample}" for id in IDS for sample in range(samples)]
        (tmp_path / folder / "decoded.csv").write_text("\n".join(["id,sample", *rows]))
        for row in rows:
            id, sample = row.split(",")
            color = tuple(colors[3 * samples - 3 + IDS.index(id) * samples + int(sample)].tolist())
            Image.new("RGB", (16, 16), color).save(tmp_path / folder / f"{id}-{sample}.png")
        found.append(tmp_path / folder)
    return found


def test_the_key_says_which_image_has_which_number(folders, tmp_path):
    key = run_sheet(folders, tmp_path / "sheet", tmp_path / "key.csv", SIDE)
    pd.testing.assert_frame_equal(key, pd.read_csv(tmp_path / "key.csv"))
    assert list(key["number"]) == list(range(1, 10))
    assert len(set(key[["folder", "id", "sample"]].itertuples(index=False))) == 9
    with Image.open(tmp_path / "sheet" / "sheet.png") as sheet:
        assert sheet.info == {} and sheet.size == (3 * (SIDE + GAP) + GAP, 3 * (SIDE + 20 + GAP) + GAP)
        pixels = np.asarray(sheet)
    for row in key.itertuples():
        across, down = (row.number - 1) % 3, (row.number - 1) // 3
        left, top = GAP + across * (SIDE + GAP), GAP + 20 + down * (SIDE + 20 + GAP)
        shown = pixels[top : top + SIDE, left : left + SIDE]
        image = np.asarray(Image.open(f"{row.folder}/{row.id}-{row.sample}.png"))
        assert (shown == image[0, 0]).all()
        head = pixels[top - 20 : top, left : left + SIDE]
        assert head.min() < 100 and (head == 255).mean() > 0.8  # its number


def test_nothing_beside_the_sheet_tells_the_key(folders, tmp_path):
    run_sheet(folders, tmp_path / "sheet", tmp_path / "key.csv", SIDE)
    assert sorted(path.name for path in (tmp_path / "sheet").iterdir()) == ["answers.csv", "names.txt", "sheet.png"]
    assert (tmp_path / "sheet/names.txt").read_text() == "cat\ncup\nrocket\nnone\n"
    answers = [f"{number},,\n" for number in range(1, 10)]
    assert (tmp_path / "sheet/answers.csv").read_text() == "".join(["number,name,clearly\n", *answers])


def test_a_seed_gives_its_own_sheet(folders, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_sheet(folders, tmp_path / name, tmp_path / f"{name}.csv", SIDE, seed)
    a, b, c = ((tmp_path / name / "sheet.png").read_bytes() for name in "abc")
    assert a == b != c
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text() != (tmp_path / "c.csv").read_text()


@pytest.fixture
def key(tmp_path):
    """Ten images of each of two folders: five targets, two samples."""
    rows = [(folder, f"t{id}", sample) for folder in ("a", "b") for id in range(5) for sample in range(2)]
    table = pd.DataFrame(rows, columns=["folder", "id", "sample"])
    table.insert(0, "number", np.random.default_rng(1).permutation(20) + 1)
    table.to_csv(tmp_path / "key.csv", index=False)
    return table


def answered(key, tmp_path, **changes):
    """All named right and clearly, but for what `changes` does to the column of numbers, names, or clearly."""
    table = pd.DataFrame({"number": key["number"], "name": key["id"], "clearly": "yes"}).astype({"number": object})
    for column, change in changes.items():
        for row, value in change.items():
            table.loc[row, column] = value
    table.to_csv(tmp_path / "answers.csv", index=False)
    return tmp_path / "answers.csv"


def test_right_names_are_counted_by_folder(key, tmp_path):
    wrong = {0: "t4", 1: "none", 2: " t1 ", 15: "t0"}  # the third is right, if not neatly written
    answers = answered(key, tmp_path, name=wrong, clearly={1: "", 2: "No ", 3: "no", 15: "no"})
    table = run_score(answers, tmp_path / "key.csv", tmp_path / "score.csv")
    written = pd.read_csv(tmp_path / "score.csv")
    pd.testing.assert_frame_equal(table, written, rtol=1e-5)
    table = table.set_index("folder")
    assert list(table.index) == ["a", "b", "all"]
    assert list(table["images"]) == [10, 10, 20] and (table["chance"] == 0.2).all()
    assert list(table["right"]) == [8, 9, 17]
    assert list(table["clear"]) == [7, 9, 16]  # the first of them wrongly
    assert list(table["clearly_right"]) == [6, 9, 15]
    # Wilson's interval in closed form, of 9 in 10
    z, share = 1.959964, 0.9
    center, half = share + z**2 / 20, z * np.sqrt(share * 0.1 / 10 + z**2 / 400)
    expected = [(center - half) / (1 + z**2 / 10), (center + half) / (1 + z**2 / 10)]
    assert table.loc["b", ["right_low", "right_high"]].tolist() == pytest.approx(expected, rel=1e-5)


def test_all_right_and_none_right_have_intervals_within_bounds(key, tmp_path):
    for name, count in (("right", 20), (NONE, 0)):
        names = {row: name for row in key.index} if count == 0 else {}
        table = run_score(answered(key, tmp_path, name=names), tmp_path / "key.csv", tmp_path / "score.csv")
        row = table.iloc[-1]
        assert row["right"] == count and row["right_share"] == count / 20
        assert 0 <= row["right_low"] <= row["right_share"] <= row["right_high"] <= 1
        assert row["right_high"] - row["right_low"] == pytest.approx(0.161, abs=0.001)


BAD_ANSWERS = {
    "an unknown number": ({"number": {3: 99}}, "there is no image 99 on the sheet"),
    "an unknown name": ({"name": {3: "t33"}}, "is named 't33'; did you mean t3?; name one of t0, t1, t2, t3, t4, none"),
    "another case": ({"name": {3: "T1"}}, "is named 'T1'; name one of t0, t1, t2, t3, t4, none"),
    "no name": ({"name": {3: ""}}, "has no name; name one of t0"),
    "not clear whether clear": ({"clearly": {3: "perhaps"}}, "clearly is 'perhaps'; say yes or no"),
    "nothing said": ({"clearly": {3: ""}}, "clearly is ''; say yes or no"),
    "no number": ({"number": {3: "three"}}, "not a table of number, name, clearly"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers_are_one_line(key, tmp_path, case):
    changes, message = BAD_ANSWERS[case]
    with pytest.raises(FeatspaceError) as error:
        run_score(answered(key, tmp_path, **changes), tmp_path / "key.csv", tmp_path / "score.csv")
    assert "answers.csv: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "score.csv").exists()


def test_each_number_needs_one_answer(key, tmp_path):
    path = answered(key, tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    first = key["number"][18:].min()
    with pytest.raises(FeatspaceError, match=f"no answer for image {first} and 1 more; name each, if only none"):
        run_score(path, tmp_path / "key.csv", tmp_path / "score.csv")
    path.write_text("".join([*lines, lines[-1]]))
    with pytest.raises(FeatspaceError, match=f"image {key['number'][19]} is named twice"):
        run_score(path, tmp_path / "key.csv", tmp_path / "score.csv")


def test_bad_folders_are_refused_and_leave_nothing(folders, tmp_path):
    before = sorted(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeatspaceError, match="empty/decoded.csv: no such file"):
        run_sheet([*folders, tmp_path / "empty"], tmp_path / "sheet", tmp_path / "key.csv")
    (tmp_path / "empty").rmdir()
    with pytest.raises(UsageError, match="clip: is named twice"):
        run_sheet([folders[0], folders[0]], tmp_path / "sheet", tmp_path / "key.csv")
    with pytest.raises(UsageError, match="the key would be beside the sheet"):
        run_sheet(folders, tmp_path / "sheet", tmp_path / "sheet" / "key.csv")
    (folders[1] / "cup-1.png").write_text("no image")
    with pytest.raises(FeatspaceError, match="cup-1.png: not an image"):
        run_sheet(folders, tmp_path / "sheet", tmp_path / "key.csv")
    (folders[0] / "decoded.csv").write_text("id,sample\nnone,0\n")
    with pytest.raises(UsageError, match="a target has the id 'none', which is an answer"):
        run_sheet(folders, tmp_path / "sheet", tmp_path / "key.csv")
    assert sorted(tmp_path.iterdir()) == before


def test_a_key_is_never_overwritten(folders, tmp_path):
    (tmp_path / "key.csv").write_text("of another sheet")
    with pytest.raises(UsageError, match="key.csv: exists, and may be the key of another sheet"):
        run_sheet(folders, tmp_path / "sheet", tmp_path / "key.csv")
    assert (tmp_path / "key.csv").read_text() == "of another sheet" and not (tmp_path / "sheet").exists()


def test_both_commands(folders, tmp_path, capsys):
    sheet, key = str(tmp_path / "sheet"), str(tmp_path / "key.csv")
    main(["sheet", *map(str, folders), "--out", sheet, "--key", key, "--side", str(SIDE), "--seed", "3"])
    assert "9 images" in capsys.readouterr().out
    truth = pd.read_csv(key)
    truth.assign(name=truth["id"], clearly="yes").to_csv(tmp_path / "answers.csv", index=False)
    main(["score", str(tmp_path / "answers.csv"), "--key", key, "--out", str(tmp_path / "score.csv")])
    assert "all: 9 of 9 right" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        main(["score", key, "--key", key, "--out", str(tmp_path / "again.csv")])
    assert exit.value.code == 1 and "no column name, clearly" in capsys.readouterr().err
