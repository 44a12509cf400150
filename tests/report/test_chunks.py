"""Trees in chunks: what is written comes back, and no text ends the element it stands in."""

import io
import re

import pytest

from leafe_verl.report.chunks import ChunkWriter, deflate, inflate, to_json
from report.samples import HOSTILE

ELEMENT = re.compile(r'<script type="application/json" id="chunk-(\d+)">([A-Za-z0-9+/=]+)</script>\n')


def written(records, size=10, vocabulary=None):
    file = io.BytesIO()
    writer = ChunkWriter(file, size)
    places = [writer.add(record, tokens, vocabulary) for record, tokens in records]
    writer.flush()
    text = file.getvalue().decode("ascii")
    found = ELEMENT.findall(text)
    assert "".join(f'<script type="application/json" id="chunk-{n}">{data}</script>\n' for n, data in found) == text
    assert [int(number) for number, _ in found] == list(range(len(found)))
    return places, [inflate(data) for _, data in found]


def test_every_tree_is_found_at_its_place():
    records = [({"text": "x" * length}, set()) for length in (1, 1, 30, 1, 1)]
    places, chunks = written(records, size=20)
    assert [chunks[chunk]["trees"][place] for chunk, place in places] == [record for record, _ in records]
    assert places == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]


def test_no_tree_is_no_chunk():
    assert written([]) == ([], [])


def test_a_chunk_names_the_tokens_of_its_own_trees():
    records = [({"text": "x" * 30}, {65, 66}), ({"text": "y"}, {66, 67})]
    _, chunks = written(records, vocabulary=chr)
    assert [chunk["pieces"] for chunk in chunks] == [{"65": "A", "66": "B"}, {"66": "B", "67": "C"}]


@pytest.mark.parametrize("text", [HOSTILE, "", "\0", "\ud800", "]]>-->", "<!--<script>", "\\u003c"])
def test_hostile_text_comes_back_and_never_stands_as_markup(text):
    shown = to_json({text: text})
    assert not set("<>&") & set(shown) and shown.isascii() and shown.isprintable()
    assert inflate(deflate(shown)) == {text: text}


def test_numbers_that_json_has_no_word_for_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))
