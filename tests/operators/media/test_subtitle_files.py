"""Subtitle files of every format and encoding, whole and broken."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from malmm.operators.media.subtitle_files import MOST_BYTES, decoded, parse_subtitles, read_subtitles
from malmm.pipeline.schema.errors import ConfigError, MediaError
from malmm.pipeline.schema.given_texts import GivenText

HELLO = GivenText(1.0, 2.5, "Hello & welcome")
SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> &amp;\nwelcome\n"
FILES = {
    "srt": SRT,
    "vtt": "WEBVTT\n\nintro\n00:01.000 --> 00:02.500 align:start\n<b>Hello</b> &amp; welcome\n\nNOTE of nobody\n\n"
    "next\n00:03.000 --> 00:04.000\n \n",
    "ass": "[Script Info]\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,left out\n"
    "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\an8}Hello &\\Nwelcome\n",
    "ttml": '<tt xmlns="http://www.w3.org/ns/ttml"><body><div>'
    '<p begin="00:00:01.000" end="00:00:02.500">Hello &amp;<br/>welcome</p></div></body></tt>',
}


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_format_is_read(tmp_path: Path, ending: str, line_end: str, encoding: str) -> None:
    path = tmp_path / f"talk.{ending.upper()}"
    path.write_bytes(FILES[ending].replace("\n", line_end).encode(encoding))
    assert read_subtitles(str(path)).texts == (HELLO,)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Добро пожаловать в порт, друзья, сегодня мы говорим только про корабли"),
        ("shift_jis", "港へようこそ。今日は船について話します。"),
        ("cp949", "항구에 오신 것을 환영합니다. 오늘은 배에 대해 이야기합니다."),
        ("gb18030", "欢迎来到港口。今天我们谈谈船。"),
        ("cp1252", "Bienvenue au port : l'été dernier, où étiez-vous ? Même à Genève, ça va."),
        ("cp1252", "Schöne Grüße aus München, wo die Straßenbahnen überfüllt sind."),
    ],
)
def test_encodings_are_guessed(encoding: str, text: str) -> None:
    srt = "\n".join(f"{n}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\n{text}\n" for n in range(1, 9))
    assert text in decoded(srt.encode(encoding), "talk.srt")


def test_an_encoding_that_cannot_be_guessed_is_given() -> None:
    data = "Dobrý večer, příště uvidíte žluťoučkého koně".encode("cp1250")
    assert decoded(data, "talk.srt", "cp1250") == "Dobrý večer, příště uvidíte žluťoučkého koně"
    with pytest.raises(ConfigError, match="--encoding 'klingon' is unknown"):
        decoded(data, "talk.srt", "klingon")


def test_what_is_broken_costs_a_sentence_with_its_line_and_the_rest_goes_in() -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:02,000\nfirst\n\n"
        "2\n00:00:0x,000 --> nowhere\nlost\n\n"
        "3\n00:00:05,000 --> 00:00:04,000\nbackwards\n\n"
        "4\n00:00:03,000 --> 00:00:06,000\noverlapping\n\n"
        "5\n00:00:03,500 --> 00:00:04,000\nboth stay\n\n"
        "6\n00:00:08,000 --> 00:00:30,000\ncut at the end\n\n"
        "7\n00:01:00,000 --> 00:01:30,000\nbeyond\n"
    )
    found = parse_subtitles(text, "srt", "talk.srt", 10.0)
    assert [(t.start_s, t.end_s, t.text.split(" lost")[0].removesuffix(" 2")) for t in found.texts] == [
        (1.0, 2.0, "first"),
        (3.0, 6.0, "overlapping"),
        (3.5, 4.0, "both stay"),
        (8.0, 10.0, "cut at the end"),
    ]
    assert found.problems == (
        "talk.srt, line 6: it is no pair of times, and its cue is left out",
        "talk.srt, line 10: the cue ends before it begins, and is left out",
        "talk.srt, line 26: the cue begins at 60.0 s of a video of 10.0 s, and is left out",
    )


def test_speakers_are_told_from_words() -> None:
    vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\n<v.loud Ada Lovelace>Hello</v>\n"
    assert parse_subtitles(vtt, "vtt", "talk.vtt").texts == (GivenText(1.0, 2.0, "Hello", "Ada Lovelace"),)
    ass = FILES["ass"].replace("Default,,0,0,0,,{", "Default,Ada,0,0,0,,{")
    assert parse_subtitles(ass, "ass", "talk.ass").texts[0].speaker == "Ada"


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("srt", ""),
        ("srt", "<html><body>404</body></html>"),
        ("vtt", "WEBVTT\n"),
        ("ass", "nothing"),
        ("ttml", "<tt"),
        ("ttml", FILES["ttml"].replace("00:00:01.000", "00:00:03:05")),
    ],
)
def test_a_file_without_subtitles_is_named(tmp_path: Path, ending: str, text: str) -> None:
    path = tmp_path / f"talk.{ending}"
    path.write_text(text)
    with pytest.raises(MediaError, match=rf"talk\.{ending}") as caught:
        read_subtitles(str(path))
    assert caught.value.kind == "decode_error"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.srt"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(MediaError, match="larger than 32 MiB"):
        read_subtitles(str(path))


@given(
    st.sampled_from(["srt", "vtt", "ass", "ttml"]),
    st.text(alphabet="0123456789:,.-> \n<>{}\\Nabc[]", max_size=200),
)
def test_any_text_is_subtitles_or_an_error_of_the_file(format: str, text: str) -> None:
    try:
        found = parse_subtitles(text, format, "talk")
    except MediaError:
        return
    assert all(0 <= each.start_s < each.end_s and each.text for each in found.texts)
