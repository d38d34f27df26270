"""How records become requests: templates, columns, names, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbatch.core.errors import InputError, UsageError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.rows import parse_line, row_from_value
from llmbatch.inputs.shape import RowShape, Shaper
from llmbatch.inputs.template import Template


def row_of(shape: RowShape, record: object, *, is_data: bool = True) -> Row | Malformed:
    """The row that *record* becomes: of a table, or of a line of JSON."""
    shaper = Shaper(shape, is_data=is_data)
    if is_data:
        assert isinstance(record, dict)
        return shaper.row(1, "0" * 16, {name: json.dumps(value) for name, value in record.items()})
    found = parse_line(1, json.dumps(record).encode(), shaper)
    assert found is not None
    return found


def fields(row: Row | Malformed) -> dict[str, object]:
    """The fields of a row that can be sent, parsed."""
    assert isinstance(row, Row), row
    return {name: json.loads(text) for name, text in row.fields.items()}


@pytest.mark.parametrize(
    ("record", "sent"),
    [
        ({"prompt": "p", "temperature": "1", "text": "t"}, {"prompt": "p"}),
        ({"prompt": "p", "system": "s", "model": "m"}, {"prompt": "p", "model": "m", "system": "s"}),
        ({"prompt": "p", "system": "", "model": None}, {"prompt": "p"}),
        ({"prompt": "", "messages": '[{"role":"user"}]'}, {"messages": [{"role": "user"}]}),
        ({"messages": [{"role": "user"}]}, {"messages": [{"role": "user"}]}),
        ({"prompt": "p", "body": "b", "base_url": "x", "metadata": "m"}, {"prompt": "p"}),
    ],
)
def test_only_the_usual_columns_of_a_table_are_sent(record: object, sent: object) -> None:
    """All others are data: a column called temperature or text is no parameter."""
    assert fields(row_of(RowShape(), record)) == sent


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"prompt": ""}, "input_no_prompt"),
        ({"prompt": None}, "input_no_prompt"),
        ({"messages": "hello"}, "input_bad_messages"),
        ({"messages": '{"role":"user"}'}, "input_bad_messages"),
        ({"messages": "[1"}, "input_bad_messages"),
    ],
)
def test_a_record_with_nothing_to_send_fails_alone(record: object, code: str) -> None:
    """Its name is told."""
    assert isinstance(record, dict)
    row = row_of(RowShape(), record | {"id": "r7"})

    assert isinstance(row, Malformed)
    assert (row.code, row.id_json) == (code, '"r7"')


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"id": "a"}, '"a"'),
        ({"id": "", "key": "k"}, '"k"'),
        ({"row_id": 7}, "7"),
        ({"custom_id": None}, '"row-1"'),
        ({}, '"row-1"'),
    ],
)
def test_a_record_is_named_by_its_id_column(record: dict[str, object], name: str) -> None:
    """The first that is not empty, else by its number."""
    assert row_of(RowShape(), {"prompt": "p", **record}).id_json == name


def test_columns_that_are_named_take_the_place_of_the_usual_ones() -> None:
    """Prompt, system prompt and id; an empty system prompt is none."""
    shape = RowShape(prompt_column="q", system_column="s", id_column="n")

    row = row_of(shape, {"q": "ask", "s": "be brief", "n": 12, "prompt": "no", "system": "no", "id": "no"})
    plain = row_of(shape, {"q": "ask", "s": "", "n": "x", "system": "no"})

    assert (fields(row), row.id_json) == ({"prompt": "ask", "system": "be brief"}, "12")
    assert (fields(plain), plain.id_json) == ({"prompt": "ask"}, '"x"')


def test_kept_columns_are_echoed_in_metadata() -> None:
    """Beside the metadata that a JSON row has; a column of its own is then no parameter to warn of."""
    table = row_of(RowShape(keep=("label", "n")), {"prompt": "p", "label": "x", "n": 1.5})
    line = row_of(RowShape(keep=("label",)), {"prompt": "p", "label": "x", "metadata": {"a": 1}}, is_data=False)

    assert fields(table) == {"prompt": "p", "metadata": {"label": "x", "n": 1.5}}
    assert fields(line) == {"prompt": "p", "metadata": {"a": 1, "label": "x"}}


@pytest.mark.parametrize(
    "shape",
    [
        RowShape(prompt_column="none"),
        RowShape(prompt_column="prompt", system_column="none"),
        RowShape(id_column="none"),
        RowShape(keep=("prompt", "none")),
    ],
)
def test_a_column_that_is_not_there_is_refused_by_the_header_and_fails_a_json_row(shape: RowShape) -> None:
    """The message has the file, the flag and the columns that there are."""
    with pytest.raises(InputError, match=r"p\.csv: has no column 'none'") as caught:
        Shaper(shape, is_data=True).check_columns(["prompt", "label"], "p.csv")
    row = row_of(shape, {"prompt": "p"}, is_data=False)

    assert caught.value.hint == "its columns are: prompt, label"
    assert isinstance(row, Malformed)
    assert (row.code, row.message) == ("input_missing_field", "the row has no none")


def test_a_table_without_a_prompt_is_refused_with_a_template_to_type() -> None:
    """The first column that is no id is in it."""
    with pytest.raises(InputError, match="no column is called prompt or messages") as caught:
        Shaper(RowShape(), is_data=True).check_columns(["id", "Review Text"], "p.csv")

    assert """-t '… {{ row["Review Text"] }}'""" in caught.value.hint


def test_a_column_that_differs_in_case_only_is_named_with_what_to_type() -> None:
    """The hint was a template with the first column, an ID."""
    with pytest.raises(InputError, match="no column is called prompt or messages") as caught:
        Shaper(RowShape(), is_data=True).check_columns(["ID", "Prompt"], "p.csv")

    assert caught.value.hint == "case matters: name it with --prompt-column Prompt"


def test_the_template_wins_and_makes_the_fields_of_json_rows_data() -> None:
    """Only parameters that nothing else is called by are still sent, and none that the template has."""
    shape = RowShape(template="{{ text }}/{{ seed }}")
    record = {
        "text": "t",
        "seed": 4,
        "prompt": "own",
        "n": 3,
        "temperature": 0.5,
        "model": "m",
        "top_p": None,
        "id": "i",
    }

    row = row_of(shape, record, is_data=False)
    batch = row_of(RowShape(template="{{ body.x }}"), {"custom_id": "c", "body": {"x": 1}}, is_data=False)

    assert (fields(row), row.id_json) == ({"prompt": "t/4", "temperature": 0.5, "model": "m"}, '"i"')
    assert (fields(batch), batch.id_json) == ({"prompt": "1"}, '"c"')


def test_a_python_object_is_shaped_as_a_json_row() -> None:
    """Such as an item of a data set; it is kept as the row's value."""
    shaper = Shaper(RowShape(template="Q: {{ question }}"), is_data=False)

    row = row_from_value(1, {"question": "why?", "answer": "so"}, shaper=shaper)

    assert fields(row) == {"prompt": "Q: why?"}
    assert row.value == {"question": "why?", "answer": "so"}


def test_settings_tell_one_shape_from_another() -> None:
    """And are empty where nothing shapes the requests."""
    shapes = [RowShape(), RowShape(template="a"), RowShape(prompt_column="a"), RowShape(keep=("a",))]

    assert [shape.settings == "" for shape in shapes] == [True, False, False, False]
    assert len({shape.settings for shape in shapes}) == 4


# Templates.


def render(source: str, **record: object) -> str:
    """The prompt, or the code and the message of what is wrong with the record."""
    row = row_of(RowShape(template=source), record)
    return str(fields(row)["prompt"]) if isinstance(row, Row) else f"{row.code}: {row.message}"


@pytest.mark.parametrize(
    ("source", "record", "prompt"),
    [
        ("Sentiment of: {{ text }}", {"text": "<b>&"}, "Sentiment of: <b>&"),
        ("{% for c in choices %}{{ loop.index }}. {{ c }}\n{% endfor %}", {"choices": ["a", "b"]}, "1. a\n2. b\n"),
        ("{{ a.b[0] }}", {"a": {"b": [7]}}, "7"),
        ('{{ row["a b"] }}', {"a b": "x"}, "x"),
        ("{{ row }}", {"row": "own"}, "own"),
        ("{{ note or '-' }}", {"note": None}, "-"),
        ("{% if note is defined %}{{ note }}{% else %}none{% endif %}", {"a": 1}, "none"),
        ("{{ n }}", {"n": 12345678901234567890}, "12345678901234567890"),
        ("{{ n }}", {"n": 10**45 - 1}, "9" * 45),
        ("{{ d | tojson }}", {"d": {"k": [1, None]}}, '{"k": [1, null]}'),
        ("{{ d | tojson }}", {"d": ["it's", "<b> & \\u003c", "\\<"]}, r"""["it's", "<b> & \\u003c", "\\<"]"""),
        ("{{ row | tojson }}", {"a": "<&'>\n\x01"}, r"""{"a": "<&'>\n\u0001"}"""),
        ("{{ a | safe }}", {"a": "\\u003c"}, r"\u003c"),
        ("a\n", {}, "a"),
    ],
)
def test_a_template_is_filled_with_the_fields_of_the_record(
    source: str, record: dict[str, object], prompt: str
) -> None:
    """Jinja's syntax, nothing escaped."""
    assert render(source, **record) == prompt


@pytest.mark.parametrize("digits", ["1.10", "12345678901234567890.12", "1E-2", "0.1e400", "-0.50"])
@pytest.mark.parametrize("source", ["{{ n }}", "{{ row.n }}", "{% for x in [n] %}{{ x }}{% endfor %}"])
def test_numbers_are_written_with_the_digits_of_the_record(source: str, digits: str) -> None:
    """A price of 1.10 is not 1.1 in the prompt, and decimals of a table keep what no float holds."""
    row = Shaper(RowShape(template=source), is_data=True).row(1, "0" * 16, {"n": digits})

    assert isinstance(row, Row)
    assert row.fields["prompt"] == f'"{digits}"'


@pytest.mark.parametrize(
    ("source", "record", "fault"),
    [
        ("{{ text }}", {"a": 1}, "input_missing_field: line 1 of the template: `text` is undefined"),
        ("\n{{ a.b }}", {"a": {}}, "input_missing_field: line 2 of the template: `a.b` is undefined"),
        ("{% if text %}x{% endif %}", {"a": 1}, "input_missing_field: line 1 of the template: `text` is undefined"),
        ("{{ a }}", {"a": None}, "input_missing_field: a is null, and the template writes it"),
        ("{{ a }}", {"a": "  "}, "input_no_prompt: the template gives nothing"),
        ("{{ a + 1 }}", {"a": "x"}, "input_template_error: line 1 of the template: tried to use + operator"),
        ("{{ a.__class__ }}", {"a": "x"}, "input_missing_field: "),
        ("{% include '/etc/passwd' %}", {"a": 1}, "input_template_error: line 1 of the template: tried to include"),
        ("{{ 'x' * 10000000000 }}", {"a": 1}, "input_template_error: "),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            {"a": 1},
            "input_template_error: line 1 of the template: takes too many steps",
        ),
    ],
)
def test_what_a_template_cannot_do_for_a_record_is_that_row_s_error(
    source: str, record: dict[str, object], fault: str
) -> None:
    """A missing field, a null, an endless loop, a file, an attribute; and nothing of it takes long."""
    assert render(source, **record).startswith(fault)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{{ text }", "the template: line 2: unexpected"),
        ("{% for %}", "the template: line 1: "),
        ("  ", "the template is empty"),
        ("@none.txt", r"none\.txt: the template cannot be read \(No such file or directory\)"),
        ("@bad.txt", r"bad\.txt: byte 2 of the template is not UTF-8"),
        ("@open.txt", r"open\.txt: line 1: "),
        ("@", "the template's file has no name"),
    ],
)
def test_a_template_that_is_none_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, message: str
) -> None:
    """With its file and line."""
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_bytes(b"a\xff")
    Path("open.txt").write_text("{{ x")

    with pytest.raises(UsageError, match=message) as caught:
        RowShape(template=template).load()

    assert caught.value.hint


def test_a_template_is_read_from_a_file_once(tmp_path: Path) -> None:
    """What it says then is what the settings tell."""
    path = tmp_path / "prompt.txt"
    path.write_text("Say {{ text }}\n")

    shape = RowShape(template=f"@{path}").load()
    path.write_text("changed")

    assert fields(row_of(shape, {"text": "a"})) == {"prompt": "Say a"}
    assert shape.settings == RowShape(template="Say {{ text }}\n").load().settings


def test_a_template_and_a_prompt_column_contradict_each_other() -> None:
    """Neither wins unseen."""
    with pytest.raises(UsageError, match="two ways to make the prompt"):
        RowShape(template="{{ a }}", prompt_column="a").load()


def test_a_template_knows_the_fields_it_takes() -> None:
    """Only these are parsed for each row."""
    assert Template("t", "{% for a in b %}{{ a }}{{ c.d }}{% endfor %}").fields == {"b", "c"}
