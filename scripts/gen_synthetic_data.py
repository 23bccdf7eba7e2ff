"""Have another model write conversations that tell yours who it is, by any endpoint that speaks OpenAI's protocol.

    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_MODEL=some-model     OPENAI_API_KEY, if it wants one
    python scripts/gen_synthetic_data.py --facts README.md --count 1000

The file is one conversation a line, as `CustomJSON` reads it: `identity_conversations.jsonl` of mid and sft.
What makes such data good is variety: number N is always asked for with the same draw of topic, person, shape and
beginning. Stopped and started again, it writes the numbers that are missing. The key is read from the environment,
and never printed or stored. Only the standard library opens connections.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import tasks_dir
from nanochat_pl.tasks.messages import checked_messages
from nanochat_pl.tasks.rows import Row

TOPICS = (
    "who the model is and who made it",
    "what its name means",
    "how large it is and what it cost to train",
    "what it was trained on",
    "how its tokenizer works",
    "what happens in pretraining, midtraining and fine-tuning",
    "what it can do: talk, write, spell, count, do sums with a tool",
    "what it cannot do: browse, remember other talks, be always right",
    "which languages it speaks best",
    "how it compares with much larger models",
    "where its code is and under which licence",
    "how to train one's own",
)
PEOPLE = (
    "a curious teenager",
    "a machine learning engineer",
    "a teacher looking for an example",
    "somebody who has never used a chatbot",
    "a sceptic who doubts every claim",
    "a friendly person who makes small talk first",
    "somebody in a hurry",
    "somebody whose first language is not English",
    "a student with homework",
)
SHAPES = (
    "one question and one answer",
    "two short exchanges",
    "three exchanges in which the user digs deeper each time",
    "two exchanges in which the user misunderstands something and is put right kindly",
    "two exchanges that begin with something else and drift to the topic",
)
BEGINNINGS = (
    "a greeting",
    "a direct question",
    "a remark",
    "a request",
    "a message with a typing mistake",
    "hi",
)
REQUEST = """\
Write a conversation between a user and a small language model, in English, to train that model with.
Facts about the model; nothing beyond them may be claimed:
---
{facts}
---
Topic: {topic}. The user: {person}. Shape: {shape}. The user begins with {beginning}.
The model answers briefly, plainly and truthfully, and admits what it does not know.
Answer with JSON alone: a list of objects {{"role": "user" or "assistant", "content": "…"}} in turn, user first."""
TRIES = 5
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
LONGEST_PAUSE_S = 60.0
LARGEST_ANSWER = 1 << 20


class Endpoint(NamedTuple):
    """Who is asked.

    Attributes:
        url: of the chat completions.
        model: its name there.
        key: sent as a bearer token; empty for none.
        timeout_s: of one answer.
    """

    url: str
    model: str
    key: str
    timeout_s: float

    def __repr__(self) -> str:
        return f"Endpoint({self.url}, {self.model})"  # not the key


def endpoint_of(environment: Mapping[str, str], timeout_s: float) -> Endpoint:
    """Return the endpoint that the variables name.

    Raises:
        BadInput: one is not set, or it is no address.
    """
    unset = [name for name in ("OPENAI_BASE_URL", "OPENAI_MODEL") if not environment.get(name)]
    if unset:
        raise BadInput(
            f"{' and '.join(unset)} not set\nexport OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_MODEL=some-model"
        )
    base = environment["OPENAI_BASE_URL"].rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise BadInput(f"OPENAI_BASE_URL={base}: give an address that begins with http:// or https://")
    return Endpoint(
        f"{base}/chat/completions",
        environment["OPENAI_MODEL"],
        environment.get("OPENAI_API_KEY", ""),
        timeout_s,
    )


def request_of(number: int, facts: str, topics: tuple[str, ...], seed: int) -> str:
    """Return what is asked for conversation `number`, the same each time."""
    draw = random.Random(f"{seed}/{number}")
    return REQUEST.format(
        facts=facts,
        topic=draw.choice(topics),
        person=draw.choice(PEOPLE),
        shape=draw.choice(SHAPES),
        beginning=draw.choice(BEGINNINGS),
    )


def conversation(endpoint: Endpoint, number: int, request: str) -> list[dict[str, Any]] | None:
    """Return the messages the endpoint wrote; None if they were of no use in any try.

    Raises:
        Failure: the endpoint cannot be reached or refuses.
    """
    problem: object = None
    for attempt in range(TRIES):
        try:
            return messages_in(_answer(endpoint, request, seed=number * TRIES + attempt), number)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.reason}"
            if error.code not in RETRIED:
                break
            _pause(attempt, error.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "reason", None) or error or type(error).__name__
            _pause(attempt, None)
        except ValueError:
            problem = None  # not a conversation; another draw may be one
    if problem is None:
        return None
    raise Failure(f"{endpoint.url}: {problem}\nWhat was written is kept; the same command continues.")


def _answer(endpoint: Endpoint, request: str, seed: int) -> str:
    body = {
        "model": endpoint.model,
        "temperature": 1.0,
        "seed": seed % 2**31,
        "messages": [{"role": "user", "content": request}],
    }
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    )
    call = urllib.request.Request(endpoint.url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(call, timeout=endpoint.timeout_s) as response:
        content = response.read(LARGEST_ANSWER)
    try:
        return str(json.loads(content)["choices"][0]["message"]["content"])
    except (LookupError, TypeError) as error:
        raise ValueError("the endpoint's answer has no message") from error


def messages_in(text: str, number: int) -> list[dict[str, Any]]:
    """Return the messages in a model's answer, perhaps between fences or after a word of introduction.

    Raises:
        ValueError: there is no conversation in it, as CustomJSON understands it.
    """
    begin, end = text.find("["), text.rfind("]")
    messages = json.loads(text[begin : end + 1])
    try:
        checked = checked_messages(Row(f"conversation {number}", None), messages)
    except Failure as failure:
        raise ValueError(str(failure)) from None
    if not all(isinstance(message["content"], str) and message["content"].strip() for message in checked):
        raise ValueError("a message is empty")
    if checked[-1]["role"] != "assistant":
        raise ValueError("the last word is not the assistant's")
    return [dict(message) for message in checked]


def _pause(attempt: int, asked: str | None) -> None:
    """Wait as long as the endpoint asks, else twice as long each time."""
    seconds = float(asked) if asked and asked.isdigit() else 2.0**attempt * 0.5
    time.sleep(min(seconds, LONGEST_PAUSE_S))


def numbers_in(path: Path) -> set[int]:
    """Return the numbers a file holds; a last line that was cut off is removed from it."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    try:
        return {json.loads(line)["number"] for line in whole.splitlines()}
    except (ValueError, TypeError, KeyError):
        raise BadInput(f"{path}: is not a file of this script\nGive another name with --out.") from None


def generate(endpoint: Endpoint, path: Path, requests: Mapping[int, str], workers: int) -> int:
    """Write the conversations asked for as they come; return how many were of no use."""
    useless = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for done, (number, messages) in enumerate(_in_parallel(endpoint, requests, workers), start=1):
            if messages is None:
                useless += 1
            else:
                print(
                    json.dumps({"number": number, "messages": messages}, ensure_ascii=False),
                    file=file,
                    flush=True,
                )
            print(f"\r{done} of {len(requests)}", end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
        os.fsync(file.fileno())
    return useless


def _in_parallel(
    endpoint: Endpoint, requests: Mapping[int, str], workers: int
) -> Iterator[tuple[int, list[dict[str, Any]] | None]]:
    """Yield conversations in the order in which they are finished, never more under way than workers."""
    left = iter(requests.items())
    under_way: dict[Future, int] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for number, request in left:
                    under_way[pool.submit(conversation, endpoint, number, request)] = number
                    if len(under_way) >= workers:
                        break
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main(argv: list[str] | None = None) -> int:
    """Generate what is missing; 0 done, 1 something failed, 2 bad input."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        help="file (default: identity_conversations.jsonl below tasks in the base directory)",
    )
    parser.add_argument("--count", type=int, default=1000, help="conversations in all")
    parser.add_argument("--facts", type=Path, default=Path("README.md"), help="file with what may be claimed")
    parser.add_argument(
        "--topics", type=Path, help="file with a topic a line (default: twelve about the model itself)"
    )
    parser.add_argument("--workers", type=int, default=4, help="requests under way at once")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other topics")
    parser.add_argument("--timeout_s", type=float, default=120.0, help="seconds to wait for an answer")
    try:
        return _main(parser.parse_args(argv))
    except (BadInput, Failure) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace) -> int:
    for name in ("count", "workers"):
        if getattr(options, name) < 1:
            raise BadInput(f"--{name} {getattr(options, name)}: give 1 or more")
    endpoint = endpoint_of(os.environ, options.timeout_s)
    path = options.out or tasks_dir("identity_conversations.jsonl")
    facts = _text(options.facts)
    topics = (
        tuple(filter(None, map(str.strip, _text(options.topics).splitlines()))) if options.topics else TOPICS
    )
    if not topics:
        raise BadInput(f"--topics {options.topics}: has no line")
    here = numbers_in(path)
    missing = [number for number in range(options.count) if number not in here]
    if here:
        print(f"{path}: {len(here)} conversations are here, {len(missing)} are missing", file=sys.stderr)
    requests = {number: request_of(number, facts, topics, options.seed) for number in missing}
    useless = generate(endpoint, path, requests, options.workers)
    print(f"{path}: {options.count - useless} conversations")
    if useless:
        raise Failure(
            f"{useless} answers were no conversations in {TRIES} tries each\nThe same command asks for them again."
        )
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
