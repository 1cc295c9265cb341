"""The options that the commands of stage 0 share."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.bi_encoder import (
    BiEncoderSettings,
    CooperationSettings,
    EncoderInputs,
    encoder_parser,
    inputs_from,
    settings_from,
)

FOLDERS = ["--tower", "t.pth", "--text", "gte", "--cache", "c"]


def test_every_setting_is_an_option() -> None:
    parser = encoder_parser("help", BiEncoderSettings)
    args = parser.parse_args([*FOLDERS, "--out", "o", "--tower-rate", "0.5", "--seed", "7"])
    assert settings_from(args, BiEncoderSettings) == BiEncoderSettings(tower_rate=0.5, seed=7)
    assert (args.out, args.threads) == (Path("o"), 1)


def test_a_command_without_a_folder_to_write_takes_none() -> None:
    parser = encoder_parser("help", CooperationSettings, out=False)
    args = parser.parse_args([*FOLDERS, "--mine-every", "5"])
    assert settings_from(args, CooperationSettings).mine_every == 5
    assert not hasattr(args, "out")


def test_inputs_come_from_the_options_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = encoder_parser("help", out=False)
    args = parser.parse_args(FOLDERS)
    monkeypatch.setenv("RNX_DATA", "data")
    assert inputs_from(parser, args) == EncoderInputs(
        data=Path("data"), tower=Path("t.pth"), text=Path("gte"), cache=Path("c")
    )
    monkeypatch.delenv("RNX_DATA")
    with pytest.raises(SystemExit) as stopped:
        inputs_from(parser, args)
    assert stopped.value.code == 2
    assert "RNX_DATA is not set" in capsys.readouterr().err
