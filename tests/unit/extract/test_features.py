import re

import pytest
from nnrules.errors import FingerprintError
from nnrules.extract.features import read_features

CASES = ("a", "b", "c")


@pytest.fixture
def table(tmp_path):
    def make(text: str):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode())
        return path

    return make


def test_types_units_and_order(table):
    path = table(
        "\ufeffcase, age [years] ,dose[],fat,flag,site\r\n"
        'c,3,1e-3,1,TRUE,"x, y"\r\n\r\na,1,2.5,0,false,1\r\nb,-2,.5,1,true,z\r\n'
    )
    columns = read_features(path, CASES)
    assert columns == {
        "age": {"type": "number", "unit": "years", "values": [1, -2, 3]},
        "dose": {"type": "number", "unit": None, "values": [2.5, 0.5, 0.001]},
        "fat": {"type": "number", "unit": None, "values": [0, 1, 1]},
        "flag": {"type": "boolean", "unit": None, "values": [False, True, True]},
        "site": {"type": "string", "unit": None, "values": ["1", "z", "x, y"]},
    }
    assert [type(value) for value in columns["fat"]["values"]] == [int, int, int]


def test_a_column_that_is_almost_numbers_is_text_and_says_so(table, caplog):
    columns = read_features(table("case,age\na,1\nb,12?\nc,3\n"), CASES)
    assert columns["age"]["type"] == "string"
    assert re.search(r"t\.csv:3: .*age .*'12\?'", caplog.text)


def test_every_problem_has_its_line(table):
    text = "case,age\na,1\na,2\nx,3\nb,\nc,nan\nd,1,2\n"
    with pytest.raises(FingerprintError) as caught:
        read_features(table(text), (*CASES, "e"))
    found = [str(problem).split("t.csv")[1] for problem in caught.value.problems]
    assert found[0].startswith(":3: a case stands twice; got a; expected only line 2")
    assert found[1].startswith(":4: a case that is not in the dataset; got 'x'")
    assert found[2].startswith(":5: age is not known for b")
    assert found[3].startswith(":6: age is not known for c; got 'nan'")
    assert found[4].startswith(":7: wrong number of cells; got 3; expected 2")
    assert found[5].startswith(": cases of the dataset are not in the table; got 1: e")
    assert len(found) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("id,age\na,1\n", "the first column is not the case"),
        ("case;age\na;1\n", "Separate the columns by commas"),
        ("case\na\n", "no column besides the case"),
        ("case,my age\na,1\n", "not a name for a column"),
        ("case,age,age [y]\na,1,2\n", "a column stands twice"),
        ('case,age\na,"1\n', "cannot be read as a table"),
        ("case,age\na,1e999\nb,1\nc,1\n", ":2: age is not finite"),
    ],
)
def test_tables_that_cannot_be(table, text, message):
    with pytest.raises(FingerprintError, match=re.escape(message)):
        read_features(table(text), CASES)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(FingerprintError, match="no such file"):
        read_features(tmp_path / "none.csv", CASES)
    (tmp_path / "t.csv").write_bytes(b"case,a\n\xff\xfe,1\n")
    with pytest.raises(FingerprintError, match="cannot be read as a table"):
        read_features(tmp_path / "t.csv", CASES)
