from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import RunFinished
from lora_studio.core.files import sha256_of
from lora_studio.core.settings import DataSettings
from lora_studio.data.prepare import PreparedData, choose_held_out, prepare_data
from lora_studio.data.tasks import report
from lora_studio.data.tokens.token_cache import cache_folder
from tests.data.conftest import HEADERS, MARKED, MODEL_ROLE, REWRITING, chat

Write = Callable[..., str]
Make = Callable[..., Any]
QUESTION, ANSWER = "My parcel is lost, what now?", 'Sorry! {"queue": "delivery", "ü": "…"}'
SECOND, LAST = "And the money?", "It is on its way."
COUNTED = ("rows", "format", "tokens", "bad_rows", "truncated_rows", "untrained_rows")


def prepare(tokenizer: Any, path: str, **changes: Any) -> PreparedData:
    return prepare_data(DataSettings(train=(path,), **{"eval_fraction": 0.0, **changes}), tokenizer, seed=0)


def trained_parts(tokenizer: Any, prepared: PreparedData, row: int = 0) -> list[str]:
    """Return each unbroken stretch of trained tokens as text."""
    tokens = prepared.train[row]
    pairs = zip(tokens.input_ids.tolist(), tokens.trained.tolist())
    return [tokenizer.decode([ids for ids, _ in part]) for trained, part in groupby(pairs, key=lambda pair: pair[1]) if trained]


@pytest.mark.parametrize(
    ("template", "end", "system"),
    [
        ("as saved", "<|im_end|>", ""),
        ("as saved", "<|im_end|>", "You sort mail."),
        (HEADERS, "</s>", ""),
        (HEADERS, "</s>", "You sort mail."),
        (MODEL_ROLE, "<|im_end|>", ""),
        (MARKED, "<|im_end|>", ""),
        (MARKED, "<|im_end|>", "You sort mail."),
    ],
    ids=["chatml", "chatml, system", "headers", "headers, system", "model role", "marked", "marked, system"],
)
def test_trained_tokens_are_every_answer_and_its_end_token(
    write_rows: Write, tokenizer_with: Make, template: str, end: str, system: str
) -> None:
    tokenizer = tokenizer_with(template)
    path = write_rows([chat(QUESTION, ANSWER, system=system), chat(QUESTION, ANSWER, SECOND, LAST, system=system)])
    prepared = prepare(tokenizer, path)
    assert trained_parts(tokenizer, prepared, 0) == [ANSWER + end]
    assert trained_parts(tokenizer, prepared, 1) == [ANSWER + end, LAST + end]


@pytest.mark.parametrize("template", ["as saved", HEADERS, MODEL_ROLE, MARKED])
def test_last_trains_the_last_answer_alone(write_rows: Write, tokenizer_with: Make, template: str) -> None:
    tokenizer = tokenizer_with(template)
    prepared = prepare(tokenizer, write_rows([chat(QUESTION, ANSWER, SECOND, LAST)]), train_on="last")
    end = "</s>" if template == HEADERS else "<|im_end|>"
    assert trained_parts(tokenizer, prepared) == [LAST + end]


def test_all_trains_every_token_but_the_first_which_nothing_predicts(write_rows: Write, tokenizer_with: Make) -> None:
    row = prepare(tokenizer_with(), write_rows([chat(QUESTION, ANSWER)]), train_on="all").train[0]
    assert row.trained.tolist() == [False] + [True] * (row.input_ids.size - 1)


@pytest.mark.parametrize("template", ["as saved", HEADERS, MODEL_ROLE])
def test_tokens_are_those_of_apply_chat_template_with_one_begin_token(write_rows: Write, tokenizer_with: Make, template: str) -> None:
    tokenizer = tokenizer_with(template, begins=True)
    row = chat(QUESTION, ANSWER, SECOND, LAST)
    ids = prepare(tokenizer, write_rows([row])).train[0].input_ids.tolist()
    assert ids == tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == (template != "as saved")


def test_an_answer_of_weight_zero_is_not_trained(write_rows: Write, tokenizer_with: Make) -> None:
    row = chat(QUESTION, ANSWER, SECOND, LAST)
    row["messages"][1]["weight"] = 0
    tokenizer = tokenizer_with()
    assert trained_parts(tokenizer, prepare(tokenizer, write_rows([row]))) == [LAST + "<|im_end|>"]


def test_a_template_that_rewrites_history_asks_for_the_last_answer_and_then_trains_it(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with(REWRITING)
    path = write_rows([chat(QUESTION, ANSWER), chat(QUESTION, ANSWER, SECOND, LAST)])
    with pytest.raises(InputError, match=r"rows.jsonl:2: .*writes turn 2 otherwise once later turns follow") as raised:
        prepare(tokenizer, path)
    assert raised.value.field == "data.train_on"
    prepared = prepare(tokenizer, path, train_on="last")
    assert trained_parts(tokenizer, prepared, 1) == ["(thought)\n" + LAST + "<|im_end|>"]


def test_a_row_the_template_refuses_is_a_bad_row(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with(MODEL_ROLE)
    path = write_rows([chat(QUESTION, ANSWER), chat(QUESTION, ANSWER, system="You sort mail.")])
    with pytest.raises(InputError, match=r"1 bad row: .*rows.jsonl:2: the chat template refuses it: System role not supported"):
        prepare(tokenizer, path)
    skipped = prepare(tokenizer, path, on_bad_rows="skip").report
    assert (skipped.rows, [bad.line for bad in skipped.bad_rows]) == (1, [2])


def test_a_conversation_without_a_chat_template_is_refused_with_the_way_out(write_rows: Write, tokenizer_with: Make) -> None:
    with pytest.raises(InputError, match="no chat template") as raised:
        prepare(tokenizer_with(None), write_rows([chat(QUESTION, ANSWER)]))
    assert "chatml, gemma, instruct" in raised.value.hint
    assert raised.value.field == "data.chat_template"


def test_a_chat_template_that_cannot_be_read_is_the_models_fault(write_rows: Write, tokenizer_with: Make) -> None:
    with pytest.raises(InputError, match="chat template cannot be read: line 1") as raised:
        prepare(tokenizer_with("{% for message in %}"), write_rows([chat(QUESTION, ANSWER)]))
    assert raised.value.field == "model.name_or_path"


def test_several_chat_templates_without_a_default_are_refused_by_name(write_rows: Write, tokenizer_with: Make) -> None:
    with pytest.raises(InputError, match="rag, tools"):
        prepare(tokenizer_with({"rag": HEADERS, "tools": HEADERS}), write_rows([chat(QUESTION, ANSWER)]))


@pytest.mark.parametrize(
    ("prompt", "completion", "trained"), [("Cat =", "Katze", "Katze<|im_end|>"), ("Cat =", " Katze", " Katze<|im_end|>")]
)
def test_prompt_and_completion_are_joined_where_there_is_no_template(
    write_rows: Write, tokenizer_with: Make, prompt: str, completion: str, trained: str
) -> None:
    tokenizer = tokenizer_with(None, begins=True)
    prepared = prepare(tokenizer, write_rows([{"prompt": prompt, "completion": completion}]))
    assert trained_parts(tokenizer, prepared) == [trained]
    assert tokenizer.decode(prepared.train[0].input_ids) == f"<s>{prompt}{'' if completion[0] == ' ' else chr(10)}{trained}"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "completion": ANSWER},
        {"instruction": "My parcel", "input": "is lost", "output": ANSWER},
        {"prompt": chat(QUESTION)["messages"], "completion": [{"role": "assistant", "content": ANSWER}]},
    ],
)
def test_prompts_become_chats_where_there_is_a_template(write_rows: Write, tokenizer_with: Make, row: dict[str, Any]) -> None:
    tokenizer = tokenizer_with()
    prepared = prepare(tokenizer, write_rows([row]))
    assert trained_parts(tokenizer, prepared) == [ANSWER + "<|im_end|>"]
    assert tokenizer.decode(prepared.train[0].input_ids).startswith("<|im_start|>user\nMy parcel")


@pytest.mark.parametrize("text", ["A text.\nOf two lines.", "<s>A text with its own begin token."])
def test_plain_text_gets_one_begin_and_one_end_token_and_is_trained_whole(write_rows: Write, tokenizer_with: Make, text: str) -> None:
    tokenizer = tokenizer_with(begins=True)
    row = prepare(tokenizer, write_rows([{"text": text}])).train[0]
    assert tokenizer.decode(row.input_ids) == "<s>" + text.removeprefix("<s>") + "<|im_end|>"
    assert row.trained.tolist() == [False] + [True] * (row.input_ids.size - 1)


@pytest.mark.parametrize("space", ["", "\n", "\n \n\t"])
@pytest.mark.parametrize("begin", ["", "<s>"])
def test_a_text_rendered_already_gets_no_second_begin_or_end_token(
    write_rows: Write,
    tokenizer_with: Make,
    begin: str,
    space: str,
) -> None:
    text = f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>{space}"
    tokenizer = tokenizer_with(begins=True)
    ids = prepare(tokenizer, write_rows([{"text": begin + text}])).train[0].input_ids
    assert tokenizer.decode(ids) == "<s>" + text


def test_a_text_with_words_behind_its_last_end_token_gets_one_more(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    ids = prepare(tokenizer, write_rows([{"text": "Hi<|im_end|>\nme"}])).train[0].input_ids
    assert tokenizer.decode(ids) == "Hi<|im_end|>\nme<|im_end|>"


def test_a_token_of_bare_space_before_an_answer_is_the_prompts(write_rows: Write, tokenizer_with: Make) -> None:
    template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = tokenizer_with(template)
    prepared = prepare(tokenizer, write_rows([chat(QUESTION, "{}")]))
    assert [part.strip() for part in trained_parts(tokenizer, prepared)] == ["{}<|im_end|>"]


def test_long_rows_are_cut_and_rows_cut_before_their_answer_are_left_out(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    path = write_rows([chat("Hi", "Yo"), chat("Hi", "Yo " * 50), chat("Hi " * 50, "Yo")])
    whole = prepare(tokenizer, path)
    lengths = whole.train.lengths
    prepared = prepare(tokenizer, path, max_length=30)
    found = prepared.report
    assert (found.rows, found.truncated_rows, found.untrained_rows, len(prepared.train)) == (3, 2, 1, 2)
    assert prepared.train.lengths.tolist() == [lengths[0], 30]
    assert found.tokens.total == lengths[0] + 60
    assert found.tokens.trained == prepared.train.trained_counts.sum()
    assert found.tokens.max == lengths.max()
    with pytest.raises(InputError, match="nothing to learn within 4 tokens") as raised:
        prepare(tokenizer, path, max_length=4)
    assert raised.value.field == "data.max_length"


def test_the_report_counts_what_an_independent_count_finds(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    rows = [chat(QUESTION * (1 + number % 4), ANSWER * (1 + number % 3)) for number in range(21)]
    found = prepare(tokenizer, write_rows(rows), eval_fraction=0.2).report
    sizes = [len(tokenizer.apply_chat_template(row["messages"], return_dict=False)) for row in rows]
    answers = [len(tokenizer.encode(row["messages"][1]["content"], add_special_tokens=False)) + 1 for row in rows]
    assert {key: found.to_json()[key] for key in COUNTED} == {
        "rows": 21,
        "format": "messages",
        "tokens": {"total": sum(sizes), "trained": sum(answers), "p50": sorted(sizes)[10], "p95": sorted(sizes)[19], "max": max(sizes)},
        "bad_rows": [],
        "truncated_rows": 0,
        "untrained_rows": 0,
    }


def test_bad_rows_stop_the_work_or_are_skipped_as_the_settings_say(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows(json.dumps(chat(QUESTION, ANSWER)) + '\n{"messages": [\n')
    with pytest.raises(InputError, match=r"rows.jsonl:2: the JSON is cut off") as raised:
        prepare(tokenizer_with(), path)
    assert raised.value.field == "data.on_bad_rows"
    assert prepare(tokenizer_with(), path, on_bad_rows="skip").report.to_json()["bad_rows"][0]["line"] == 2


def test_rows_that_are_all_bad_leave_nothing_to_train_on(write_rows: Write, tokenizer_with: Make) -> None:
    with pytest.raises(InputError, match="No row is left to train on"):
        prepare(tokenizer_with(), write_rows([{"text": ""}]), on_bad_rows="skip")


@pytest.mark.parametrize(
    ("rows", "fraction", "held_out"), [(100, 0.1, 10), (3, 0.01, 1), (2, 0.99, 1), (1, 0.5, 0), (50, 0.0, 0), (10, 0.999, 9)]
)
def test_held_out_rows_are_the_share_asked_for_and_never_all(rows: int, fraction: float, held_out: int) -> None:
    assert len(choose_held_out(np.arange(rows), fraction, 0)) == held_out


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(st.integers(0, 12), min_size=2, max_size=40), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_no_row_is_held_out_while_one_like_it_is_trained_on(contents: list[int], fraction: float, seed: int) -> None:
    numbers = np.array(contents, dtype=np.int64)
    held_out = choose_held_out(numbers, fraction, seed)
    kept = np.delete(numbers, held_out)
    assert len(set(held_out.tolist())) == held_out.size <= max(1, round(len(contents) * fraction))
    assert kept.size
    assert not set(kept.tolist()) & set(numbers[held_out].tolist())


def test_rows_that_repeat_stay_on_one_side_of_the_split(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows([chat(f"Question {number % 25}", ANSWER) for number in range(100)])
    prepared = prepare(tokenizer_with(), path, eval_fraction=0.1)
    trained, held_out = ({row.input_ids.tobytes() for row in rows} for rows in (prepared.train, prepared.evaluation))
    assert len(prepared.evaluation) == 8
    assert not trained & held_out


def test_the_seed_alone_decides_which_rows_are_held_out(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    path = write_rows([chat(f"Question {number}", ANSWER) for number in range(40)])

    def split(seed: int) -> PreparedData:
        return prepare_data(DataSettings(train=(path,), eval_fraction=0.25), tokenizer, seed)

    assert split(3).fingerprint == split(3).fingerprint
    assert split(3).fingerprint != split(4).fingerprint
    texts = [tokenizer.decode(row.input_ids) for rows in (split(3).train, split(3).evaluation) for row in rows]
    assert (len(split(3).train), len(set(texts))) == (30, 40)


def test_evaluation_files_leave_every_training_row_to_train(write_rows: Write, tokenizer_with: Make) -> None:
    train = write_rows([chat(QUESTION, ANSWER)] * 5, "train.jsonl")
    held = write_rows([chat(SECOND, LAST)] * 2, "held.jsonl")
    prepared = prepare_data(DataSettings(train=(train,), eval=(held,)), tokenizer_with(), 0)
    assert (len(prepared.train), len(prepared.evaluation), prepared.report.rows) == (5, 2, 7)
    assert prepared.samples(9)[1].reference == LAST


@pytest.mark.parametrize("template", ["as saved", HEADERS, MODEL_ROLE, MARKED])
def test_a_sample_prompt_is_the_held_out_row_up_to_its_last_answer(write_rows: Write, tokenizer_with: Make, template: str) -> None:
    tokenizer = tokenizer_with(template)
    rows = [chat(f"{number}: {QUESTION}", ANSWER, SECOND, LAST) for number in range(4)]
    prepared = prepare(tokenizer, write_rows(rows), eval_fraction=0.5)
    sample = prepared.samples(1)[0]
    assert (sample.row, sample.prompt_text, sample.reference) == (0, SECOND, LAST)
    ids = prepared.evaluation[0].input_ids
    start = len(sample.prompt_ids)
    assert tuple(ids[:start].tolist()) == sample.prompt_ids
    assert tokenizer.decode(ids[start:]).startswith(LAST)


def test_samples_of_an_array_on_one_line_are_the_rows_held_out(write_rows: Write, tokenizer_with: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([chat(f"question {number}", f"answer {number}") for number in range(20)]), encoding="utf-8")
    tokenizer = tokenizer_with()
    prepared = prepare(tokenizer, str(path), eval_fraction=0.2)
    for sample, row in zip(prepared.samples(4), prepared.evaluation, strict=True):
        assert f"{sample.prompt_text}<" in tokenizer.decode(row.input_ids)
        assert sample.reference.replace("answer", "question") == sample.prompt_text


@pytest.mark.parametrize(("end", "unended"), [("", 3), ("<|im_end|>", 0)])
def test_rows_that_train_no_end_token_are_counted(write_rows: Write, tokenizer_with: Make, end: str, unended: int) -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}" + end + "\n{% endfor %}"
    path = write_rows([chat("a", "b"), chat("c", "d"), chat("e", "f", "g", "h")])
    assert prepare(tokenizer_with(template), path).report.unended_rows == unended


def test_a_sample_of_plain_text_is_its_first_half(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    prepared = prepare(tokenizer, write_rows([{"text": f"{QUESTION} {number}"} for number in range(2)]), eval_fraction=0.5)
    sample = prepared.samples(1)[0]
    assert (sample.prompt_text + sample.reference)[:-2] == QUESTION
    assert tokenizer.decode(sample.prompt_ids) == sample.prompt_text


def test_what_a_run_keeps_names_files_by_hash_and_the_share_trained(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows([chat(f"{number}: {QUESTION}", ANSWER) for number in range(4)])
    prepared = prepare(tokenizer_with(), path, eval_fraction=0.25)
    kept = json.loads(json.dumps(prepared.to_json()))
    assert kept["files"][0]["sha256"] == sha256_of(Path(path))
    assert (kept["train_rows"], kept["eval_rows"], kept["data_fingerprint"]) == (3, 1, prepared.fingerprint)
    assert kept["share_trained"] == pytest.approx(float(np.mean(prepared.train.trained)))


def test_progress_is_told_up_to_the_last_byte(write_rows: Write, tokenizer_with: Make) -> None:
    seen: list[tuple[int, int]] = []
    path = write_rows([chat("a", "b")] * 5000)
    prepare_data(DataSettings(train=(path,)), tokenizer_with(), 0, lambda done, total: seen.append((done, total)))
    size = Path(path).stat().st_size
    assert [total for _done, total in seen] == [0, *[size] * 3]  # hashed first
    assert 0 < seen[1][0] <= seen[2][0] <= seen[3][0] == size


def test_a_file_that_is_written_to_while_it_is_read_is_refused_and_nothing_is_kept(write_rows: Write, tokenizer_with: Make) -> None:
    path = Path(write_rows([chat("a", "b")] * 5000))

    def write(done: int, total: int) -> None:
        if done == total > 0:  # read to its end
            path.write_text(json.dumps(chat("another", "row")) + "\n", encoding="utf-8")

    with pytest.raises(InputError, match="was changed while it was read"):
        prepare_data(DataSettings(train=(str(path),)), tokenizer_with(), 0, write)
    assert not [folder for folder in cache_folder().iterdir() if folder.is_dir()]


def test_the_report_task_gives_the_report_with_its_bad_rows(write_rows: Write, tokenizer_folder: Path) -> None:
    path = write_rows(json.dumps(chat(QUESTION, ANSWER)) + "\n[]\n")
    config = RunConfig().replace({"data.train": (path,)}).model_dump(mode="json")
    last = list(report(TaskContext(), config, str(tokenizer_folder)))[-1]
    assert isinstance(last, RunFinished)
    assert set(last.result) == {
        *COUNTED,
        "untrained",
        "unended_rows",
        "train_rows",
        "eval_rows",
        "histogram",
        "packing",
        "cached",
        "template",
        "lengths",
        "findings",
        "bad_count",
    }
    assert last.result["bad_count"] == 1
    assert last.result["bad_rows"] == [{"file": path, "line": 2, "reason": "a row is an object with keys, this is a list"}]


def test_the_report_task_stops_when_asked(write_rows: Write, tokenizer_folder: Path) -> None:
    context = TaskContext()
    context.control.stop()
    config = RunConfig().replace({"data.train": (write_rows([chat(QUESTION, ANSWER)]),)}).model_dump(mode="json")
    with pytest.raises(Cancelled):
        list(report(context, config, str(tokenizer_folder)))


def test_a_folder_without_a_tokenizer_is_refused(write_rows: Write, tmp_path: Path) -> None:
    config = RunConfig().replace({"data.train": (write_rows([chat(QUESTION, ANSWER)]),)}).model_dump(mode="json")
    with pytest.raises(InputError, match="has no tokenizer that can be read"):
        list(report(TaskContext(), config, str(tmp_path)))


def answers_of(tokenizer: Any, rows: Any) -> list[str]:
    return [tokenizer.decode(rows[number].input_ids) for number in range(len(rows))]


def split_by_answer(tokenizer: Any, path: str, seed: int = 0, **changes: Any) -> tuple[list[str], list[str]]:
    prepared = prepare_data(DataSettings(train=(path,), train_on="each", **changes), tokenizer, seed=seed)
    return answers_of(tokenizer, prepared.train), answers_of(tokenizer, prepared.evaluation)


def test_with_a_row_for_each_answer_long_conversations_are_held_out_as_often_as_short_ones(write_rows: Write, tokenizer_with: Make) -> None:
    long = [chat(f"Ask {number}", "One.", f"More {number}", "Two.", "And?", "Three.") for number in range(6)]
    short = [chat(f"Once {number}", "Only.") for number in range(6)]
    path, tokenizer = write_rows([row for pair in zip(long, short) for row in pair]), tokenizer_with()
    held_out = [split_by_answer(tokenizer, path, seed, eval_rows=4)[1] for seed in range(8)]
    heads = [{text.partition("Ask ")[2][:1] for text in texts if "Ask " in text} for texts in held_out]
    assert all(sum("Ask " in text for text in texts) == 3 * len(found) for texts, found in zip(held_out, heads))
    assert all(len(found) + sum("Once " in text for text in texts) == 4 for texts, found in zip(held_out, heads))
    assert 8 <= sum(map(len, heads)) <= 24


def test_conversations_of_more_answers_than_rows_are_held_out_are_held_out_all_the_same(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows([chat(f"Ask {number}", "One.", "More", "Two.", "And?", "Three.") for number in range(5)])
    train, held_out = split_by_answer(tokenizer_with(), path, eval_rows=1)
    assert (len(train), len(held_out)) == (12, 3)


def test_conversations_that_begin_alike_are_held_out_without_what_is_trained_on(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows([chat("Hi", "Hello!", f"Ask {number}", "Two.") for number in range(10)])
    train, held_out = split_by_answer(tokenizer_with(), path, eval_fraction=0.3)
    assert len(held_out) == 3
    assert not set(train) & set(held_out)
    assert len(train) == 17  # what they begin with is the same row ten times, and trained on


def test_rows_of_one_line_are_conversations_of_their_own(tmp_path: Path, tokenizer_with: Make) -> None:
    rows = [chat(f"Ask {number}", "One.", "More", "Two.") for number in range(4)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    train, held_out = split_by_answer(tokenizer_with(), str(path), eval_fraction=0.25)
    assert (len(train), len(held_out)) == (6, 2)
