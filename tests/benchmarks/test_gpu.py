"""The call that checks a graphics card, tried where there is none: what is wrong is reported, and the rest goes on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.call import Call, Check, Result, left_out
from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.report import Report

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def planted(name: str, limit: float = 60, **fields: object) -> Check:
    return Check(name, f"what {name} does", f"tests.benchmarks.planted:{name}", limit, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Result], Path]:
    """Run all that is planted, a sound check behind each; once, since the engine is imported for it."""
    folder = tmp_path_factory.mktemp("call")
    checks = (
        planted("hang", 6),
        planted("killed"),
        planted("raises"),
        planted("nothing"),
        planted("sound"),
        planted("wrong_kernel", needs=("no_such_package",)),
        planted("wrong_kernel", 120),
    )
    call = Call(checks, "cpu", tiny=True, seconds=300)
    report = Report(folder / "found.jsonl", call)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_STUDIO_HOME", str(folder / "home"))
        results = call.run(folder, report.found, report.ended)
    report.write_page(results)
    return {f"{result.check.name}{' left out' if result.state == 'left out' else ''}": result for result in results}, folder


def test_a_wrong_kernel_fails_and_says_which(called: tuple[dict[str, Result], Path]) -> None:
    result = called[0]["wrong_kernel"]
    assert result.state == "failed", result.said
    failed = [row.what for row in result.rows if row.passed is False]
    assert failed
    assert all(what.startswith("norms of") for what in failed)
    assert any(row.what.startswith("LoRA of") and row.passed for row in result.rows)


def test_a_hang_costs_its_own_time_and_says_where_it_stood(called: tuple[dict[str, Result], Path]) -> None:
    result = called[0]["hang"]
    assert (result.state, [row.what for row in result.rows]) == ("hung", ["before it hangs"])
    assert 6 <= result.seconds < 60
    assert "planted.py" in result.said
    assert "in hang" in result.said


@pytest.mark.parametrize(("name", "said"), [("killed", "Its process ended with -9"), ("raises", "RuntimeError: a planted error")])
def test_a_process_that_ends_keeps_what_it_had_found(called: tuple[dict[str, Result], Path], name: str, said: str) -> None:
    result = called[0][name]
    assert (result.state, len(result.rows)) == ("broke", 1)
    assert said in result.said


def test_a_check_that_finds_nothing_has_not_passed(called: tuple[dict[str, Result], Path]) -> None:
    assert called[0]["nothing"].state == "failed"


def test_the_rest_goes_on_in_processes_of_its_own(called: tuple[dict[str, Result], Path]) -> None:
    result = called[0]["sound"]
    assert result.state == "passed"
    assert result.rows[0].figures["device"] == "cpu"
    assert result.rows[0].figures["process"] != os.getpid()


def test_what_is_left_out_says_for_want_of_what(called: tuple[dict[str, Result], Path]) -> None:
    result = called[0]["wrong_kernel left out"]
    assert (result.state, result.said, result.seconds) == ("left out", "needs no_such_package", 0)
    assert left_out(planted("sound", cuda_only="it is for CUDA"), "cpu") == "it is for CUDA"
    assert left_out(planted("sound", cuda_only="it is for CUDA"), "cuda") == ""


def test_all_is_written_as_it_comes_and_on_one_page(called: tuple[dict[str, Result], Path]) -> None:
    folder = called[1]
    lines = [json.loads(line) for line in (folder / "found.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"platform", "cores", "versions"} <= lines[0]["machine"].keys()
    hung = [line for line in lines if line.get("check") == "hang"]
    assert [("what" in line, line.get("state")) for line in hung] == [(True, None), (False, "hung")]
    page = (folder / "found.md").read_text(encoding="utf-8")
    assert "torch" in page
    assert "| hang | what hang does | **hung** |" in page
    assert "RuntimeError: a planted error" in page
    assert "left out: needs no_such_package" in page


def test_where_no_time_is_left_the_rest_is_named(tmp_path: Path) -> None:
    (result,) = Call((planted("sound"),), "cpu", tiny=True, seconds=1).run(tmp_path)
    assert result.state == "no time left"


def test_real_checks_pass_on_a_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LORA_STUDIO_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE", "PYTHONWARNINGS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # set for good by the call, which is a program
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    to = tmp_path / "found.jsonl"
    status = main(["--device", "cpu", "--tiny", "--only", "head", "telemetry", "resume", "estimate", "--to", str(to)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "4 passed" in to.with_suffix(".md").read_text(encoding="utf-8")


def test_a_name_that_is_no_check_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--only", "heads"])
    assert raised.value.code == 2
    assert "telemetry" in capsys.readouterr().err


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.__main__.REQUIRED", ("torch", "no_such_package"))
    with pytest.raises(SystemExit) as raised:
        main([])
    assert raised.value.code == 2
    assert "no_such_package" in capsys.readouterr().err


def test_checks_have_names_of_their_own_and_functions_that_exist() -> None:
    import importlib

    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        module, _, function = check.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
