"""Settings as editors and scripts leave them: marks before the text, other encodings, numbers of any size."""

import os

import pytest
from helpers.tiny import write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.errors import UserError
from cskd_bench.schema import read_toml


@pytest.fixture
def text(tmp_path):
    return write_run(tmp_path / "tiny.toml", {}).read_bytes()


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")])
def test_a_mark_and_line_ends_of_windows_change_nothing(tmp_path, text, change):
    before = load_config(tmp_path / "tiny.toml")
    (tmp_path / "tiny.toml").write_bytes(change(text))
    assert load_config(tmp_path / "tiny.toml") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.decode().encode("utf-16"), "save it as UTF-8"),
        (lambda text: b"# caf\xe9\n" + text, "save it as UTF-8"),
        (lambda text: text.replace(b"epochs = 4", b"epochs = 4\nepochs = 5"), "not valid TOML"),
        (lambda text: text.replace(b"epochs = 4", b"epochs = nan"), "recipe.epochs"),
        (lambda text: text.replace(b"epochs = 4", b"epochs = 2026-01-01"), "recipe.epochs"),
        (lambda text: text.replace(b"epochs = 4", b"epochs = 1180591620717411303424"), "is no number of 64 bits"),
        (lambda text: text.replace(b"epochs = 4", b"epochs = " + b"9" * 5000), "not valid TOML"),
        (lambda text: b".".join([b"a"] * 5000) + b" = 1\n" + text, "nested too deeply"),
        (lambda text: text + b"x = " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (lambda text: text + b'\n[teacher]\nweights = "a\\u0000b"', "holds a zero byte"),
        (lambda _: b"", "names no method"),
        (lambda _: b"\0" * 64, "not valid TOML"),
        (lambda text: b"seed = -1\n" + text, "seed"),
        (lambda text: b"seed = 9223372036854775808\n" + text, "seed"),
        (lambda text: b"seed = 1e3\n" + text, "seed"),
    ],
)
def test_what_is_no_settings_is_one_sentence(tmp_path, text, capsys, change, said):
    path = tmp_path / "tiny.toml"
    path.write_bytes(change(text))
    assert main(["pretrain", str(path), "--runs", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cskd-bench: {path}: ") and said in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_one_sentence(tmp_path, capsys, make):
    make(tmp_path / "x.toml")
    for words in (["pretrain", str(tmp_path / "x.toml")], ["tasks", "show", str(tmp_path / "x.toml")]):
        assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "1e3", "0x10", "１", "9" * 5000])
def test_what_is_no_seed_is_one_sentence(capsys, seed):
    with pytest.raises(SystemExit) as ended:
        main(["transfer", "--task", "digits", "--checkpoint", "x", f"--seed={seed}"])
    assert ended.value.code == 2
    assert "is not a whole number from 0 to 2^63 - 1" in capsys.readouterr().err


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(tmp_path, content):
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    try:
        outcome = read_toml(path)
    except UserError as error:
        outcome = error
    assert isinstance(outcome, dict) or str(path) in str(outcome)
