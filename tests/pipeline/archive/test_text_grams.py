"""Which texts get grams, and which words are found by them."""

from __future__ import annotations

import pytest

from malmm.pipeline.archive.text_grams import QueryGrams, grams_of, is_plain_english


@pytest.mark.parametrize(
    "text",
    [
        "a red circle moving left, then a blue square",
        "red car",
        "A man is playing the guitar on a stage in front of a crowd.",
        "No dog is seen; 3 cats are.",
        "den leading a dance",
        "left: red circle",
        "",
        "“What is that?” — she asked…",
        "surfing",
        "A die is cast and the men run",
    ],
)
def test_plain_english_has_none(text: str) -> None:
    assert is_plain_english(text)
    assert grams_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "ein Hund rennt im Park",
        "die Katze und der Hund",
        "un chat noir sur la table",
        "la casa roja",
        "un perro en el parque",
        "il gatto nero sul tavolo",
        "Feuerwehrfahrzeug",
        "café",
        "고양이가 잔다",
        "黑猫",
        "A cat (猫) on a mat",
        "красная машина",
    ],
)
def test_texts_of_other_languages_have_some(text: str) -> None:
    assert not is_plain_english(text)
    assert grams_of(text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("猫", "黑色的猫坐在椅子上"),
        ("黑猫", "黑色的猫坐在椅子上"),
        ("红色汽车", "一辆红色的汽车停在路边"),
        ("車", "赤い車が道路を走っています"),
        ("赤い車", "道路に赤い車がある"),
        ("食べる", "子供がご飯を食べています"),
        ("ネコ", "ﾈｺが寝ている"),
        ("ギター", "男性がギターを弾いている"),
        ("고양이", "고양이가 소파에서 잔다"),
        ("고양이가", "작은 고양이는 잔다"),
        ("자동차", "남자가 빨간 자동차를 운전하고 있습니다"),
        ("개", "개가 짖는다"),
        ("Fahrzeug", "Ein Feuerwehrfahrzeug fährt über die Brücke"),
        ("Brücke", "Ein Auto fährt über die Autobahnbrücke"),
        ("bruecke", "Eine Bruecke über den Fluss"),
        ("Katzen", "eine schwarze Katze schläft auf dem Sofa"),
        ("Strasse", "ein Kind auf der Straße"),
        ("eleve", "l'élève va à l'église"),
        ("église", "L'ELEVE VA A L'EGLISE, près d'ici"),
        ("nino", "el niño juega con la pelota"),
        ("машину", "красная машина стоит"),
        ("đường", "xe chạy trên đường phố"),
        ("duong", "xe chạy trên đường phố"),
        ("รถ", "มีรถสีแดงอยู่บนถนน"),
        ("कुत्ता", "एक कुत्ता दौड़ रहा है"),
        ("كتاب", "رجل يقرأ كِتَابًا"),
    ],
)
def test_words_are_found(words: str, text: str) -> None:
    grams = grams_of(text)
    assert grams is not None
    query = QueryGrams.of(words)
    assert set(query.wanted.split()) & set(grams.split()), "the index would not bring the text"
    assert query.are_in(grams)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("犬", "黑色的猫坐在椅子上"),
        ("자전거", "남자가 빨간 자동차를 운전하고 있습니다"),
        ("Auto", "ein Haus im Garten"),
        ("car", "la cartera de cuero está en la mesa"),
        ("élève", "une voiture rouge dans la rue"),
        ("がか", "かがみ"),
        ("", "ein Haus im Garten"),
        ("?!", "ein Haus im Garten"),
    ],
)
def test_others_are_not(words: str, text: str) -> None:
    assert not QueryGrams.of(words).are_in(grams_of(text) or "")
