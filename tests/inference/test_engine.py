"""Batched, cached, continuous: what a prompt gets is what the plain loop gives it alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from reference.byte_tokenizer import ChatByteTokenizer
from reference.scripted_gpt import ScriptedGPT
from tiny_gpt import SHAPES, random_gpt

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings, complete
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput, Failure

TOKENIZER = ChatByteTokenizer()
GREEDY = SamplingSettings(temperature=0.0)
END, OUT = 260, (263, 264)
LONG = GPTConfig(sequence_len=48, vocab_size=265, n_layer=2, n_head=4, n_kv_head=2, n_embd=64)


def talker(config=LONG, seed=0):
    """A model that repeats itself little and does not end its turn: control tokens are out of its reach."""
    gpt = random_gpt(config, seed, std=2.0)
    gpt.lm_head.weight[256:] = 0.0
    return gpt


def random_prompts(count, longest, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_greedy_ids_are_those_of_the_plain_loop(config):
    """Token by token, up to the last position of the context."""
    gpt, prompts = talker(config), random_prompts(70, config.sequence_len)
    done = Engine(gpt, TOKENIZER, rows=8).generate(prompts, GREEDY)
    for prompt, completion in zip(prompts, done, strict=True):
        room = config.sequence_len - len(prompt) + 1
        assert completion.ids == complete(gpt, prompt, max_new_tokens=room)
        assert completion.finish_reason == "context"
        assert completion.mask == [1] * room
    assert len({token for completion in done for token in completion.ids}) > 50  # no constant would do


def test_a_turn_that_ends_is_the_plain_loops_up_to_the_stop_id():
    gpt, prompts = random_gpt(LONG, seed=5, std=2.0), random_prompts(40, 20)
    gpt.lm_head.weight[257:260] = 0.0
    gpt.lm_head.weight[260] *= 3  # the turn ends often
    gpt.lm_head.weight[261:] = 0.0
    done = Engine(gpt, TOKENIZER, rows=4).generate(prompts, replace(GREEDY, max_new_tokens=20))
    for prompt, completion in zip(prompts, done, strict=True):
        expected = complete(gpt, prompt, max_new_tokens=20, stop_ids={256, 260})
        stopped = completion.finish_reason == "stop"
        assert completion.ids[: len(expected)] == expected
        assert completion.ids[len(expected) :] in ([[256], [260]] if stopped else [[]])
    assert {completion.finish_reason for completion in done} == {"stop", "length"}


@pytest.mark.parametrize("settings", [GREEDY, SamplingSettings(temperature=0.8, top_k=50, seed=3)], ids=str)
def test_32_prompts_through_4_slots_get_what_each_gets_alone(settings):
    gpt, prompts = talker(), random_prompts(32, 30)
    rng = random.Random(1)
    each = [replace(settings, max_new_tokens=rng.randint(1, 18)) for _ in prompts]
    together = Engine(gpt, TOKENIZER, rows=4).generate(prompts, each)
    for prompt, own, completion in zip(prompts, each, together, strict=True):
        assert Engine(gpt, TOKENIZER).generate([prompt], own) == [completion]


@pytest.mark.parametrize("rows", [1, 2, 5, 32])
def test_the_number_of_slots_changes_nothing(rows):
    gpt, prompts = talker(), random_prompts(9, 25)
    settings = SamplingSettings(temperature=1.0, top_p=0.9, seed=0, max_new_tokens=12)
    few = Engine(gpt, TOKENIZER, rows=rows).generate(prompts, settings)
    assert few == Engine(gpt, TOKENIZER, rows=3).generate(prompts, settings)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_prompts_read_in_chunks_are_prompts_read_whole(chunk):
    gpt, prompts = talker(), random_prompts(10, 40)
    settings = SamplingSettings(temperature=1.0, seed=2, max_new_tokens=8)
    chunked = Engine(gpt, TOKENIZER, rows=4, prefill_chunk=chunk).generate(prompts, settings)
    assert chunked == Engine(gpt, TOKENIZER, rows=4).generate(prompts, settings)


def test_what_a_row_says_does_not_depend_on_its_neighbours():
    gpt, prompt = talker(), [1, 2, 3]
    own = SamplingSettings(temperature=1.0, min_p=0.01, seed=7, max_new_tokens=20)
    engine = Engine(gpt, TOKENIZER, rows=6)
    (alone,) = engine.generate([prompt], own)
    for seed in range(5):
        others = random_prompts(5, 30, seed)
        kinds = [GREEDY, SamplingSettings(top_k=3), SamplingSettings(temperature=5.0, top_p=0.5), own, own]
        place = seed
        prompts = [*others[:place], prompt, *others[place:]]
        each = [*kinds[:place], own, *kinds[place:]]
        assert engine.generate(prompts, each)[place] == alone


def test_sixteen_equal_prompts_get_first_tokens_of_their_own():
    """Each row draws its first id itself, though the prompt is read once."""
    gpt, prompts = talker(), [[5, 6, 7]] * 16
    settings = [SamplingSettings(temperature=1.0, seed=seed, max_new_tokens=4) for seed in range(16)]
    done = Engine(gpt, TOKENIZER).generate(prompts, settings)
    assert len({completion.ids[0] for completion in done}) >= 8
    assert done == Engine(gpt, TOKENIZER).generate(prompts, settings[0])  # seed + i for one that serves all
    for prompt, own, completion in zip(prompts, settings, done, strict=True):
        assert Engine(gpt, TOKENIZER).generate([prompt], own) == [completion]


def test_equal_prompts_among_others_are_read_once():
    gpt = ScriptedGPT({1: [60, 61, END], 2: [0, 62, END]})
    prompts = [[1], [2, 2], [1], [2, 2], [1]]
    done = Engine(gpt, TOKENIZER).generate(prompts, GREEDY)
    assert [completion.text for completion in done] == ["<=", ">", "<=", ">", "<="]
    assert gpt.read[1] == [1, 60, 60, 60, 61, 61, 61]  # once; then three rows go on
    assert gpt.read[2] == [2, 2, 62, 62]


def test_prompts_of_similar_length_are_read_together_and_others_are_not_padded_to_them():
    gpt = ScriptedGPT({row: [END] * 40 for row in range(5)})
    lengths = [30, 23, 22, 2, 1]
    Engine(gpt, TOKENIZER).generate([[row] * length for row, length in enumerate(lengths)], GREEDY)
    assert [len(gpt.read[row]) for row in range(5)] == [30, 30, 22, 2, 1]
    assert gpt.calls == 4


def test_unseeded_settings_give_a_new_answer_every_time():
    engine = Engine(talker(), TOKENIZER)
    first, second = (engine.generate([[1]], SamplingSettings(max_new_tokens=20))[0].ids for _ in range(2))
    assert first != second


def test_seeds_repeat_and_differ():
    engine = Engine(talker(), TOKENIZER)
    first, same, other = (
        engine.generate([[1]], SamplingSettings(seed=seed, max_new_tokens=20))[0].ids for seed in (4, 4, 5)
    )
    assert first == same != other


def test_the_context_ends_with_its_last_position():
    gpt = ScriptedGPT({9: [65] * 8}, sequence_len=8)
    (completion,) = Engine(gpt, TOKENIZER).generate([[9, 9, 9]], GREEDY)
    assert completion.ids == [65] * 6  # after 3, 4, 5, 6, 7 and 8 positions
    assert completion.finish_reason == "context"
    assert len(gpt.read[9]) == 8
    (full,) = Engine(gpt, TOKENIZER).generate([[9] * 8], GREEDY)
    assert (full.ids, full.finish_reason) == ([65], "context")


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_length_ends_without_a_forward_pass_for_nothing(limit):
    gpt = ScriptedGPT({9: [65] * 60})
    (completion,) = Engine(gpt, TOKENIZER).generate([[9, 9]], replace(GREEDY, max_new_tokens=limit))
    assert (completion.ids, completion.finish_reason) == ([65] * limit, "length")
    assert gpt.calls == limit


def test_a_stop_at_the_last_permitted_id_is_a_stop():
    gpt = ScriptedGPT({9: [65, END]})
    (completion,) = Engine(gpt, TOKENIZER).generate([[9]], replace(GREEDY, max_new_tokens=2))
    assert (completion.ids, completion.finish_reason) == ([65, END], "stop")


def test_no_new_tokens_cost_no_forward_pass():
    gpt = ScriptedGPT({9: []})
    (completion,) = Engine(gpt, TOKENIZER).generate([[9]], replace(GREEDY, max_new_tokens=0))
    assert (completion.ids, completion.text, completion.finish_reason, gpt.calls) == ([], "", "length", 0)
    assert list(Engine(gpt, TOKENIZER).stream([9], replace(GREEDY, max_new_tokens=0))) == []
    assert Engine(gpt, TOKENIZER).generate([]) == []


def test_slots_are_refilled_as_soon_as_they_are_free():
    """One row of 6 ids beside two of 3, in two slots: six steps; waiting for the long row would take nine."""
    scripts = {row: [*[65] * length, END] for row, length in enumerate([5, 2, 2])}
    gpt = ScriptedGPT(scripts)
    done = Engine(gpt, TOKENIZER, rows=2).generate([[row] for row in scripts], GREEDY)
    assert [len(completion.ids) for completion in done] == [6, 3, 3]
    assert gpt.calls == 6 + 1  # once a new prompt is read while the long row goes on


def test_output_tokens_are_never_sampled_however_likely():
    gpt = talker()
    gpt.lm_head.weight[list(OUT)] = 40 * gpt.lm_head.weight[:2]
    engine = Engine(gpt, TOKENIZER)
    for settings in (GREEDY, SamplingSettings(temperature=2.0, seed=0)):
        for completion in engine.generate(random_prompts(10, 20), settings):
            assert not set(OUT) & set(completion.ids)


def test_ids_the_tokenizer_lacks_are_never_sampled():
    gpt = talker(replace(LONG, vocab_size=280))
    gpt.lm_head.weight[265:] = 40 * gpt.lm_head.weight[:15]
    for completion in Engine(gpt, TOKENIZER).generate(random_prompts(10, 20), SamplingSettings(seed=0)):
        assert max(completion.ids) < 265


def test_streamed_pieces_are_the_parts_of_the_completion():
    said = [*"añ".encode(), 261, *b"1+1", 262, 0, 0, 0, *"😀!".encode(), END]
    engine = Engine(ScriptedGPT({7: said}), TOKENIZER, lambda expression: "2")
    pieces = list(engine.stream([7], GREEDY))
    assert pieces == [
        ("text", "a"),
        ("text", "ñ"),
        ("python", "1"),
        ("python", "+"),
        ("python", "1"),
        ("python_output", "2"),
        ("text", "😀"),
        ("text", "!"),
    ]
    (completion,) = engine.generate([[7]], GREEDY)
    assert completion.text == "añ😀!"
    assert [(part["type"], part["text"]) for part in completion.parts] == [
        ("text", "añ"),
        ("python", "1+1"),
        ("python_output", "2"),
        ("text", "😀!"),
    ]


@pytest.mark.parametrize("cut", range(1, 5))
def test_an_emoji_cut_by_the_length_ends_in_one_replacement(cut):
    gpt = ScriptedGPT({7: [*"é😀".encode(), END]})
    (completion,) = Engine(gpt, TOKENIZER).generate([[7]], replace(GREEDY, max_new_tokens=2 + cut))
    assert completion.text == ("é😀" if cut == 4 else "é�")


def test_streams_draw_what_batches_draw():
    gpt, settings = talker(), SamplingSettings(temperature=1.0, seed=11, max_new_tokens=25)
    engine = Engine(gpt, TOKENIZER)
    text = "".join(piece.text for piece in engine.stream([1, 2], settings))
    assert text == engine.generate([[1, 2], [3]], settings)[0].text


def test_a_closed_stream_stops_the_work():
    gpt = ScriptedGPT({7: [65] * 60})
    stream = Engine(gpt, TOKENIZER).stream([7], GREEDY)
    assert gpt.calls == 0  # nothing is done before it is asked for
    assert [next(stream).text for _ in range(3)] == ["A"] * 3
    stream.close()
    assert gpt.calls == 3
    assert list(stream) == []


def test_two_streams_of_one_engine_do_not_disturb_each_other():
    gpt = talker()
    engine = Engine(gpt, TOKENIZER)
    settings = SamplingSettings(temperature=1.0, seed=1, max_new_tokens=15)
    alone = [list(engine.stream(prompt, settings)) for prompt in ([1], [2, 3])]
    first, second = (engine.stream(prompt, settings) for prompt in ([1], [2, 3]))
    interleaved = [[next(first)], [next(second)]]
    interleaved[1] += second
    interleaved[0] += first
    assert interleaved == alone


def test_every_call_uses_the_weights_as_they_are_then():
    gpt = talker()
    for dtype in (None, torch.bfloat16):
        engine = Engine(gpt, TOKENIZER, dtype=dtype)
        before = engine.generate([[1]], GREEDY)
        gpt.lm_head.weight[:256] = gpt.lm_head.weight[:256].roll(1, 0)
        gpt.wte.weight[:] = gpt.wte.weight.roll(1, 0)
        assert engine.generate([[1]], GREEDY) != before


def test_bf16_is_computed_as_under_autocast_and_leaves_the_model_as_it_was():
    gpt, prompts = talker(), random_prompts(6, 20)
    weights = {name: weight.clone() for name, weight in gpt.state_dict().items()}
    done = Engine(gpt, TOKENIZER, dtype=torch.bfloat16).generate(prompts, replace(GREEDY, max_new_tokens=1))
    with torch.autocast("cpu", torch.bfloat16):
        expected = [complete(gpt, prompt, max_new_tokens=1) for prompt in prompts]
    assert [completion.ids for completion in done] == expected
    assert all(torch.equal(weight, gpt.state_dict()[name]) for name, weight in weights.items())


def test_below_fp32_logits_are_exact_all_the_same():
    """The rows of the output matrix differ by less than bf16 can tell: rounded, all ids would tie."""
    gpt, prompts = talker(), random_prompts(8, 20)
    gpt.lm_head.weight[:256] = gpt.lm_head.weight[0] * torch.linspace(1, 1.001, 256)[:, None]
    done = Engine(gpt, TOKENIZER, dtype=torch.bfloat16).generate(prompts, replace(GREEDY, max_new_tokens=1))
    with torch.autocast("cpu", torch.bfloat16):
        expected = [complete(gpt, prompt, max_new_tokens=1) for prompt in prompts]
    assert [completion.ids for completion in done] == expected
    assert [255] in expected


def test_a_callers_autocast_and_gradients_change_nothing():
    gpt = talker().requires_grad_(True)
    engine = Engine(gpt, TOKENIZER)
    plain = engine.generate([[1, 2]], GREEDY)
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.generate([[1, 2]], GREEDY) == plain


def test_a_model_of_low_precision_is_taken_as_it_is():
    gpt = talker().bfloat16()
    (completion,) = Engine(gpt, TOKENIZER).generate([[1, 2]], GREEDY)
    assert completion.finish_reason == "context"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], r"^prompt 0 is empty; begin with at least the BOS id$"),
        ([1] * 49, r"^prompt 0 has 49 ids, but the model's context is sequence_len=48; shorten it"),
        ([1, 265], r"^prompt 0: id 265 is none of the model's 265"),
        ([-1], r"^prompt 0: id -1 is none"),
    ],
)
def test_impossible_prompts_are_refused_before_any_work(prompt, message):
    engine = Engine(talker(), TOKENIZER)
    with pytest.raises(BadInput, match=message):
        engine.stream(prompt)
    with pytest.raises(BadInput, match=message):
        engine.generate([prompt])
    with pytest.raises(BadInput, match=message.replace("prompt 0", "prompt 1")):
        engine.generate([[1], prompt])


def test_impossible_engines_and_numbers_of_settings_are_refused():
    gpt = talker()
    with pytest.raises(BadInput, match="rows=0 is below 1"):
        Engine(gpt, TOKENIZER, rows=0)
    with pytest.raises(BadInput, match="prefill_chunk=0 is below 1"):
        Engine(gpt, TOKENIZER, prefill_chunk=0)
    with pytest.raises(BadInput, match="the model knows 100 ids but the tokenizer has 265"):
        Engine(random_gpt(replace(LONG, vocab_size=100)), TOKENIZER)
    with pytest.raises(BadInput, match="1 settings for 2 prompts"):
        Engine(gpt, TOKENIZER).generate([[1], [2]], [GREEDY])


def test_a_diverged_model_is_a_failure():
    gpt = talker()
    gpt.lm_head.weight[7] = torch.nan
    with pytest.raises(Failure, match="logits are not numbers"):
        Engine(gpt, TOKENIZER).generate([[1]], GREEDY)


def test_prompts_and_weights_are_left_as_they_were():
    gpt, prompts = talker(), random_prompts(5, 10)
    kept = [list(prompt) for prompt in prompts]
    Engine(gpt, TOKENIZER, rows=2).generate(prompts, SamplingSettings(seed=0, max_new_tokens=5))
    assert prompts == kept


@pytest.mark.gpu
def test_on_a_gpu_bf16_rows_of_different_lengths_say_what_they_say_alone():
    """bf16 sums differ between batch sizes, so only what is decided clearly is compared: the first ids."""
    gpt, prompts = talker().cuda(), random_prompts(12, 30)
    engine = Engine(gpt, TOKENIZER, rows=4)
    done = engine.generate(prompts, GREEDY)
    assert all(
        len(completion.ids) == 49 - len(prompt) for prompt, completion in zip(prompts, done, strict=True)
    )
    exact = Engine(gpt, TOKENIZER, rows=4, dtype=torch.float32).generate(prompts, GREEDY)
    for prompt, completion in zip(prompts, exact, strict=True):
        assert completion.ids == complete(gpt, prompt, max_new_tokens=49 - len(prompt))
    agreeing = sum(ours.ids[0] == theirs.ids[0] for ours, theirs in zip(done, exact, strict=True))
    assert agreeing >= 10
