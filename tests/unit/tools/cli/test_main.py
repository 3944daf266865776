"""The command reports an error in one sentence."""

import argparse
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest

from iot_cipher.keyring import new_keyring_text
from iot_models import settings
from iot_tools.cli.command_parser import EXAMPLES
from iot_tools.cli.main import _COMMANDS, _parser, main
from iot_tools.cli.option_types import Subparsers


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err == (
        "iot-sensor: the following arguments are required: command; see iot-sensor --help\n"
    )


def test_an_unknown_option_points_to_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, words in (
        ("iot-sensor keys list", ["keys", "list", "--all", "1"]),
        ("iot-sensor", ["--quiet", "keys", "list"]),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        unknown = " ".join(word for word in words if word not in {"keys", "list"})
        assert capsys.readouterr().err == (
            f"{command}: unrecognized arguments: {unknown}; see {command} --help\n"
        )


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_has_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: iot-sensor {name} ")


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of the commands that do something."""
    groups = [each for each in parser._actions if isinstance(each, Subparsers)]  # noqa: SLF001
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from leaves(command)


def test_the_help_of_each_command_ends_with_an_example() -> None:
    found = {parser.prog.removeprefix("iot-sensor "): parser for parser in leaves(_parser())}
    assert found.keys() == EXAMPLES.keys()
    for name, parser in found.items():
        assert parser.format_help().endswith(f"example:\n  iot-sensor {EXAMPLES[name]}\n")


def test_the_help_of_each_command_says_what_the_command_does() -> None:
    assert all(parser.description for parser in leaves(_parser()))


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_each_example_is_valid(example: str) -> None:
    words = shlex.split(example.partition(" > ")[0])
    assert callable(_parser(words).parse_args(words).command)


def test_a_shell_completes_commands_options_and_files(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").touch()
    script = subprocess.run(
        [sys.executable, "-m", "iot_tools", "completion", "bash"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    ask = """
    COMP_WORDS=(iot-sensor {words}); COMP_CWORD={index}; COMP_LINE="iot-sensor {words}"
    $(complete -p iot-sensor | sed 's/.*-F \\([^ ]*\\).*/\\1/') ; echo "${{COMPREPLY[@]}}"
    """
    for words, index, expected in (
        ("ke", 1, "keys"), ("keys ro", 2, "rotate"), ("import rea", 2, "readings.csv"),
        ("top --ca-file rea", 3, "readings.csv"),
    ):  # fmt: skip
        done = subprocess.run(
            ["bash", "-c", script + ask.format(words=words, index=index)],  # noqa: S607
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout.split() == [expected]


def imported_for_help(*words: str) -> set[str]:
    """Return the modules that a command has imported when it has printed its help."""
    program = (
        "import sys\n"
        "from iot_tools.cli.main import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\n"
        "except SystemExit:\n    print(*sys.modules)\n"
    )
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "name", ["canary", "keys", "probe", "secrets", "settings", "tokens", "top", "vault"]
)
def test_a_command_without_stores_imports_no_driver(name: str) -> None:
    """The imports take four times as long as such a command, and 35 MB in each of its pods."""
    assert not imported_for_help(name) & {"psycopg", "redis"}


def test_the_list_of_commands_imports_no_command() -> None:
    imported = imported_for_help()
    assert {name for name in imported if name.startswith("iot_tools.")} == {
        "iot_tools.cli",
        "iot_tools.cli.command_parser",
        "iot_tools.cli.main",
        "iot_tools.cli.option_types",
    }


def test_garbage_is_collected_only_while_the_command_runs() -> None:
    """Collections take a tenth of a short command, and more when the process ends."""
    program = (
        "import gc, sys\n"
        "early = []\n"
        "gc.callbacks.append(\n"
        "    lambda *_: early.append('iot_tools' in sys.modules and not gc.get_freeze_count()))\n"
        "from iot_tools.__main__ import main\n"
        "main()\n"
        "print(any(early), gc.isenabled(), gc.get_freeze_count() > 0)\n"
    )
    command = [sys.executable, "-c", program, "settings"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False True True"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["simulate"], "required: --url"),
        (["simulate", "--url", "http://x", "--devices", "0"], "must be a positive integer"),
        (["simulate", "--url", "http://x", "--rate", "fast"], "must be above 0 and at most 100000"),
        (["simulate", "--url", "http://x", "--rate", "nan"], "must be above 0 and at most 100000"),
        (["keys"], "required: action"),
        (
            ["soak", "--url", "http://x", "--timeout", "0"],
            "--timeout: must be 0.1 to 86400 seconds",
        ),
        (["top", "--url", "http://x/api/iot"], "leave out /api/iot: the command adds it"),
        (["top", "--url", "http://x/a/api/rssi/last/1"], "leave out /api/rssi/last/1: the"),
        (
            ["send", "--url", "http://x", "--time", "soon"],
            "RFC 3339 or Unix microseconds, not 'soo",
        ),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--port", "http"], "PORT must be an integer from 1 to 65535, not 'http'\n"),
        (
            ["simulate", "--url", "x"],
            "--url: the URL must have the form http(s)://host[:port][/path]\n",
        ),
    ],
)
def test_invalid_values_are_named(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == sentence


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("IOT_POSTGRES_URL", raising=False)
    assert main(["migrate"]) == 2
    assert capsys.readouterr().err.startswith("IOT_POSTGRES_URL is not set")


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_every_setting_is_listed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, default, meaning in settings.describe():
        assert any(name in line and default in line and meaning in line for line in lines)


def test_a_keyring_is_created_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keyring"
    assert main(["keys", "create", str(path)]) == 0
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["keys", "create", str(path)]) == 0
    assert path.read_bytes() == content
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{path}: created", f"{path}: exists, not changed"]


def test_a_character_that_the_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iot_tools", "keys", "create", str(tmp_path / "ü")],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/\\xfc: created\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="file names must be UTF-8")
def test_a_path_that_is_not_text_is_printed_as_it_is_in_the_locale_c(tmp_path: Path) -> None:
    path = bytes(tmp_path / "x") + b"\xff"
    done = subprocess.run(
        [sys.executable, "-m", "iot_tools", "keys", "create", path],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, path + b": created\n")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (".", " is not a regular file\n"),
        ("fifo", " is not a regular file\n"),
        ("dangling", " is not a regular file\n"),
        ("empty", ": the keyring is not JSON of the form "),
    ],
)
def test_an_existing_file_that_is_no_keyring_is_refused(
    name: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "empty").touch()
    assert main(["keys", "create", str(tmp_path / name)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"{tmp_path / name}{sentence}")
    assert told.out == ""


@pytest.mark.parametrize(
    ("action", "option", "sentence"),
    [
        ("add", "--secret-key", "--secret-key needs --secret\n"),
        ("add", "--namespace", "--namespace needs --secret or --writer-secret\n"),
        ("add", "--writer-secret-key", "--writer-secret-key needs --writer-secret\n"),
        ("list", "--namespace", "--namespace needs --secret\n"),
    ],
)
def test_an_option_for_a_secret_is_refused_without_it(
    action: str, option: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keyring.json"
    main(["keys", "create", str(path)])
    content = path.read_bytes()
    assert main(["keys", action, "--keyring", str(path), option, "value"]) == 2
    assert capsys.readouterr().err == sentence
    assert path.read_bytes() == content
    assert main(["keys", "create", str(path), "--namespace", "plant"]) == 2


def test_writer_keys_are_derived_from_the_keyring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring, path = tmp_path / "keyring.json", tmp_path / "writer-keys.json"
    derive = ["keys", "writer", "--keyring", str(keyring), "--file", str(path)]
    assert main(derive) == 2
    assert capsys.readouterr().err == f"{keyring} can't be read: No such file or directory\n"
    main(["keys", "create", str(keyring)])
    assert main(derive) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.stat().st_ino
    assert main(derive) == 0
    assert path.stat().st_ino == written
    keyring.write_text(new_keyring_text(), encoding="utf-8")
    assert main(derive) == 0
    assert path.stat().st_ino != written
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{path}: written",
        f"{path}: up to date, not changed",
        f"{path}: written",
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keyring.json", "writer-keys.json"]


def test_writer_keys_never_replace_the_keyring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = tmp_path / "keyring.json"
    main(["keys", "create", str(keyring)])
    content = keyring.read_bytes()
    assert main(["keys", "writer", "--keyring", str(keyring), "--file", str(keyring)]) == 2
    assert f"{keyring} is not overwritten" in capsys.readouterr().err
    assert keyring.read_bytes() == content


def test_an_unwritable_path_of_keys_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", str(tmp_path / "no" / "keyring")]) == 2
    assert "can't be written: No such file or directory" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"iot-sensor {version('iot-tools')}\n"


@pytest.mark.parametrize("step", ["_parser", "_settings"])
def test_ctrl_c_is_reported_in_one_line(
    step: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the command loads, and while it runs."""

    def interrupted(*_: object) -> NoReturn:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(f"iot_tools.cli.main.{step}", interrupted)
    # A test before may have left another handler in this process.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["settings"]) == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == "stopped\n"


def test_ctrl_c_during_the_import_of_the_command_is_reported_in_one_line() -> None:
    program = (
        "import signal, sys\n"
        # If a shell runs pytest in the background, this process inherits that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'iot_models.settings': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from iot_tools.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "settings"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("command", ["settings", "capacity", "completion bash"])
def test_a_closed_pipe_ends_the_command_without_a_message(command: str) -> None:
    """As SIGPIPE ends other programs: `iot-sensor settings | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "iot_tools", *command.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("command", ["settings", "capacity"])
def test_a_full_disk_is_reported_in_one_sentence(command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "iot_tools", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    said = "the output can't be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize(
    ("command", "closed", "status", "said"),
    [
        ("settings", (1,), 0, ""),
        ("settings", (0, 1, 2), 0, ""),
        ("send --url http://127.0.0.1:1", (0,), 2, "there is no terminal to ask for the password"),
    ],
)
def test_a_stream_that_the_caller_closed_is_like_dev_null(
    command: str, closed: tuple[int, ...], status: int, said: str
) -> None:
    """Python sets such a stream to None."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    program = f'"{sys.executable}" -m iot_tools {command} {redirections}'
    ended = subprocess.run(
        ["sh", "-c", program],  # noqa: S607
        env={name: text for name, text in os.environ.items() if name != "IOT_PASSWORD"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.startswith(said)
