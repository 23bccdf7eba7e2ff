"""Conversations from an endpoint that fails, babbles and is cut off: what is written is right, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_stage import ROOT

from nanochat_pl.tasks.jsonl import CustomJSON

SCRIPT = ROOT / "scripts" / "gen_synthetic_data.py"
KEY = "sk-a-secret"
GOOD = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A small model."}]


class Fake(ThreadingHTTPServer):
    """An endpoint that answers from a list of tricks, in turn, then well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tricks: list[str] = []
        self.requests: list[dict] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            trick = server.tricks.pop(0) if server.tricks else "good"
            server.requests.append(body)
            server.keys.add(self.headers["Authorization"])
        if trick.isdigit():
            self.send_response(int(trick))
            self.send_header("Retry-After", "0")
            self.end_headers()
        elif trick == "close":
            self.connection.close()
        else:
            text = {"good": json.dumps(GOOD), "fenced": f"Here:\n```json\n{json.dumps(GOOD)}\n```"}.get(
                trick, trick
            )
            answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)


@pytest.fixture
def fake():
    server = Fake()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def generate(fake, out, *options: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{fake.server_port}/v1",
        "OPENAI_MODEL": "m",
        "OPENAI_API_KEY": KEY,
    }
    return subprocess.run(
        [sys.executable, SCRIPT, "--out", out, "--facts", ROOT / "LICENSE", *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables | environment,
        timeout=120,
    )


def test_bad_answers_are_asked_again_and_all_are_conversations(fake, tmp_path):
    out = tmp_path / "own.jsonl"
    fake.tricks = [
        "500",
        "close",
        "no JSON at all",
        "[]",
        json.dumps(GOOD[:1]),
        json.dumps(GOOD[::-1]),
        "fenced",
        "429",
    ]
    done = generate(fake, out, "--count", "12", "--workers", "3")
    assert done.returncode == 0, done.stderr
    task = CustomJSON(str(out))
    assert len(task) == 12
    assert task[0]["messages"] == GOOD
    assert sorted(json.loads(line)["number"] for line in out.read_text().splitlines()) == list(range(12))
    assert fake.keys == {f"Bearer {KEY}"}
    assert KEY not in out.read_text() + done.stdout + done.stderr


def test_same_command_writes_only_what_is_missing(fake, tmp_path):
    out = tmp_path / "own.jsonl"
    assert generate(fake, out, "--count", "4").returncode == 0
    asked = [request["messages"] for request in fake.requests]
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + lines[1] + lines[2][:20])  # cut off in the middle of the third
    fake.requests.clear()
    done = generate(fake, out, "--count", "4")
    assert done.returncode == 0, done.stderr
    assert len(fake.requests) == 2
    assert all(request["messages"] in asked for request in fake.requests)
    assert len(CustomJSON(str(out))) == 4


def test_endpoint_that_refuses_ends_it_and_keeps_what_was_written(fake, tmp_path):
    out = tmp_path / "own.jsonl"
    fake.tricks = ["good", "good", "401"]
    done = generate(fake, out, "--count", "9", "--workers", "1")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert KEY not in done.stderr
    assert len(out.read_text().splitlines()) == 2


def test_model_that_never_writes_one_is_reported(fake, tmp_path):
    fake.tricks = ["babble"] * 5
    done = generate(fake, tmp_path / "own.jsonl", "--count", "2", "--workers", "1")
    assert done.returncode == 1
    assert "1 answers were no conversations" in done.stderr
    assert len((tmp_path / "own.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ((), {"OPENAI_MODEL": ""}, "OPENAI_MODEL not set"),
        ((), {"OPENAI_BASE_URL": "ftp://x"}, "OPENAI_BASE_URL=ftp://x"),
        (("--count", "0"), {}, "--count 0"),
        (("--topics", "/nowhere"), {}, "/nowhere: No such file"),
    ],
)
def test_bad_input_is_refused(fake, tmp_path, options, environment, message):
    done = generate(fake, tmp_path / "own.jsonl", *options, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert not (tmp_path / "own.jsonl").exists()


def test_another_file_is_not_written_into(fake, tmp_path):
    out = tmp_path / "notes.jsonl"
    out.write_text('{"mine": 1}\n')
    done = generate(fake, out)
    assert done.returncode == 2
    assert out.read_text() == '{"mine": 1}\n'
