"""Questions that are measured on and were calibrated with are counted by their contents."""

import pytest

from luq_gguf.core import overlap
from luq_gguf.core.measurements import SharedCounts
from luq_gguf.core.profile_facts import Seen
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample


@pytest.fixture
def pictures(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("a-again", b"one")):
        (tmp_path / f"{name}.png").write_bytes(content)
    return lambda name: (tmp_path / f"{name}.png",)


def test_pictures_and_lines_are_counted_whatever_their_files_are_called(pictures):
    seen = overlap.seen(
        [Sample("what?", pictures("a"))], [Sample("what?", pictures("a")), Sample("why?", pictures("b"))]
    )
    questions = [
        Sample("what?", pictures("a-again"), ("another answer",)),  # a line, and its picture
        Sample("where?", pictures("a")),  # the picture alone
        Sample("why?", pictures("b")),  # a line that was read without its picture
        Sample("why?"),
        Sample("what?", pictures("b")),
    ]
    assert overlap.shared(seen, questions) == SharedCounts(shared_lines=2, shared_pictures=2)


def test_sets_without_anything_in_common_have_no_sentence(pictures):
    seen = overlap.seen([], [Sample("why?")])
    counts = overlap.shared(seen, [Sample("what?", pictures("a"))])
    assert (counts.shared_lines, counts.shared_pictures, counts.overlap(1)) == (0, 0, None)
    assert SharedCounts().overlap(1) is None
    both = SharedCounts(shared_lines=2, shared_pictures=3).overlap(5)
    assert both == "of 5 questions 2 were calibrated with and 3 have pictures that were: others may give worse figures"


def test_a_damaged_record_and_a_missing_picture_count_nothing(tmp_path):
    gone = Sample("what?", (tmp_path / "gone.png",))
    assert overlap.shared(Seen("!", "!"), [gone]) == SharedCounts(shared_lines=0, shared_pictures=0)
    assert overlap.shared(overlap.seen([], [gone]), [gone]).shared_lines == 1


def test_any_picture_of_a_question_counts_and_a_line_with_all_its_pictures_and_turns(pictures):
    both = pictures("a") + pictures("b")
    turns = (Turn("user", (None, "what?")), Turn("assistant", ("red",)), Turn("user", (None, "and this?")))
    seen = overlap.seen([Sample.of_turns(turns, both)], [Sample.of_turns(turns, both)])
    questions = [
        Sample.of_turns(turns, pictures("a-again") + pictures("b")),
        Sample.of_turns(turns, both[::-1]),
        Sample("and this?", pictures("b")),
        Sample("and this?"),
    ]
    assert overlap.shared(seen, questions) == SharedCounts(shared_lines=1, shared_pictures=3)
