"""The command line: help for everyone, one line for every error."""

from __future__ import annotations

from pathlib import Path

import pytest

import iopipe
from iopipe import cli
from iopipe.bench import demo


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, word in (("--version", iopipe.__version__), ("--help", "demo")):
        with pytest.raises(SystemExit) as caught:
            cli.main([option])
        assert caught.value.code == 0
        assert word in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--device", "tpu"]])
def test_wrong_words_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (iopipe.PipelineError("no such device"), 1, "iopipe: no such device"),
        (OSError(28, "No space left on device", "x"), 1, "iopipe: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "iopipe: interrupted"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert cli.main(["demo"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["demo", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
