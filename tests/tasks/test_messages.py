"""SmolTalk and own conversations: what people write is taken as it is, or refused with file, line and message."""

from __future__ import annotations

import pytest
from task_files import FORMS, write_lines, write_rows

from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks import CustomJSON, SmolTalk

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
PARTS = [
    {"type": "python", "text": "1+1"},
    {"type": "python_output", "text": "2"},
    {"type": "text", "text": "2"},
]
GOOD = [
    [USER, ASSISTANT],
    [SYSTEM, USER, ASSISTANT],
    [USER, ASSISTANT, USER, ASSISTANT],
    [USER, ASSISTANT, USER],
]
BAD = [
    ([], "has 0 message"),
    ([USER], "has 1 message"),
    ([SYSTEM, USER], "has 2 message"),
    ([ASSISTANT, USER], "message 1 is of 'assistant'; it is the turn of 'user'"),
    ([USER, USER], "message 2 is of 'user'; it is the turn of 'assistant'"),
    ([SYSTEM, ASSISTANT, USER], "message 2 is of 'assistant'"),
    ([USER, SYSTEM, ASSISTANT], "message 2 is of 'system'"),
    ([USER, {"role": "bot", "content": "x"}], "message 2 is of 'bot'"),
    ([USER, {"role": "assistant"}], "message 2: has no 'content'"),
    ([USER, {"role": "assistant", "content": None}], "message 2: 'content' is NoneType"),
    ([{"role": "user", "content": PARTS}, ASSISTANT], "message 1: 'content' is list"),
    (
        [USER, {"role": "assistant", "content": [{"type": "image", "text": ""}]}],
        "part type 'image' does not exist",
    ),
    ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "message 2: has no 'text'"),
    (["Hi", "Hello"], "message 1: has no 'role'"),
]


@pytest.mark.parametrize("form", FORMS)
def test_smoltalk_takes_any_file_of_messages(base_dir, form):
    rows = [{"messages": messages, "source": "x"} for messages in GOOD]
    write_rows(base_dir / f"tasks/smoltalk/train.{form}", rows)
    task = SmolTalk("train")
    assert sorted((conversation["messages"] for conversation in task), key=GOOD.index) == GOOD
    assert set(task[0]) == {"messages"}


@pytest.mark.parametrize(("messages", "complaint"), BAD)
def test_smoltalk_names_the_row_it_cannot_take(tmp_path, messages, complaint):
    task = SmolTalk(path=str(write_rows(tmp_path / "x.jsonl", [{"messages": messages}])))
    with pytest.raises(Failure, match=rf"x\.jsonl: line 1: .*{complaint}|x\.jsonl: line 1: {complaint}"):
        task[0]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz"])
def test_own_conversations_are_lists_or_objects_in_the_order_of_the_file(tmp_path, form):
    rows = [messages if number % 2 else {"messages": messages} for number, messages in enumerate(GOOD)]
    task = CustomJSON(str(write_rows(tmp_path / f"mine.{form}", rows)))
    assert [conversation["messages"] for conversation in task] == GOOD


def test_own_conversations_may_call_tools(tmp_path):
    messages = [USER, {"role": "assistant", "content": PARTS}]
    (conversation,) = CustomJSON(str(write_rows(tmp_path / "mine.jsonl", [messages])))
    assert conversation["messages"] == messages


def test_keys_beside_role_and_content_are_dropped(tmp_path):
    noisy = [{**USER, "name": "Ada"}, {**ASSISTANT, "id": 3}]
    (conversation,) = CustomJSON(str(write_rows(tmp_path / "mine.jsonl", [noisy])))
    assert conversation["messages"] == [USER, ASSISTANT]


@pytest.mark.parametrize(("messages", "complaint"), BAD)
def test_all_own_conversations_are_checked_before_the_first_is_used(tmp_path, messages, complaint):
    task = CustomJSON(str(write_rows(tmp_path / "mine.jsonl", [[USER, ASSISTANT], messages])), stop=1)
    with pytest.raises(Failure, match=complaint) as caught:
        len(task)
    assert "mine.jsonl: line 2" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_line_of_something_else_is_named(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", ['"hello"'])
    with pytest.raises(Failure, match=r"mine\.jsonl: line 1: has no 'messages'"):
        len(CustomJSON(str(path)))


def test_a_missing_file_is_a_failure_and_not_an_empty_task(base_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as caught:
        len(CustomJSON("identity.jsonl"))
    assert "identity.jsonl" in str(caught.value)
    assert str(base_dir / "tasks") in str(caught.value)


def test_own_conversations_are_found_here_then_below_the_base_directory_also_gzipped(
    base_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_rows(base_dir / "tasks" / "identity.jsonl.gz", [[USER, ASSISTANT]] * 2)
    assert len(CustomJSON("identity.jsonl")) == 2
    write_rows(tmp_path / "identity.jsonl", [[USER, ASSISTANT]])
    assert len(CustomJSON("identity.jsonl")) == 1
