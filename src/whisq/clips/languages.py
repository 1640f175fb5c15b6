"""Languages as data names them, to Whisper's codes: BCP 47 tags, ISO 639 codes, English names."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from whisq.formats.special_tokens import LANGUAGES

_ALSO = """
en eng english · zh zho chi cmn chinese mandarin · de deu ger german · es spa spanish castilian · ru rus russian
ko kor korean · fr fra fre french · ja jpn japanese · pt por portuguese · tr tur turkish · pl pol polish
ca cat catalan valencian · nl nld dut dutch flemish · ar ara arb arabic · sv swe swedish · it ita italian
id ind in indonesian · hi hin hindi · fi fin finnish · vi vie vietnamese · he heb iw hebrew · uk ukr ukrainian
el ell gre greek · ms msa may zsm malay · cs ces cze czech · ro ron rum mo mol romanian moldavian moldovan
da dan danish · hu hun hungarian · ta tam tamil · no nor nb nob norwegian bokmal bokmål · th tha thai · ur urd urdu
hr hrv scr croatian · bg bul bulgarian · lt lit lithuanian · la lat latin · mi mri mao maori māori · ml mal malayalam
cy cym wel welsh · sk slk slo slovak · te tel telugu · fa fas per pes prs persian farsi dari · lv lav lvs latvian
bn ben bengali bangla · sr srp scc serbian · az aze azj azerbaijani · sl slv slovenian slovene · kn kan kannada
et est ekk estonian · mk mkd mac macedonian · br bre breton · eu eus baq basque · is isl ice icelandic
hy hye arm armenian · ne nep npi nepali · mn mon khk mongolian · bs bos bosnian · kk kaz kazakh
sq sqi alb als albanian · sw swa swh swahili · gl glg galician · mr mar marathi · pa pan punjabi panjabi
si sin sinhala sinhalese · km khm khmer · sn sna shona · yo yor yoruba · so som somali · af afr afrikaans
oc oci occitan · ka kat geo georgian · be bel belarusian belarusan · tg tgk tajik · sd snd sindhi · gu guj gujarati
am amh amharic · yi yid ydd ji yiddish · lo lao · uz uzb uzn uzbek · fo fao faroese · ht hat haitian haitian_creole
ps pus pbt pashto pushto · tk tuk turkmen · nn nno nynorsk · mt mlt maltese · sa san sanskrit
lb ltz luxembourgish letzeburgesch · my mya bur myanmar burmese · bo bod tib tibetan · tl tgl fil tagalog filipino
mg mlg plt malagasy · as asm assamese · tt tat tatar · haw hawaiian · ln lin lingala · ha hau hausa
ba bak bashkir · jw jv jav javanese · su sun sundanese · yue cantonese
"""
"""Whisper's code, then what else says the same: ISO 639-1 to -3, retired codes, single languages of a macrolanguage as
corpora have them (FLEURS, Common Voice), English names."""


@cache
def _codes() -> dict[str, str]:
    rows = [row.split() for line in _ALSO.strip().splitlines() for row in line.split("·")]
    return {name: row[0] for row in rows for name in row}


def whisper_language(name: str) -> str | None:
    """Return Whisper's code for a language as data names it, or None for one that Whisper has not.

    ``name`` is a code or BCP 47 tag (``en-US``, ``zh-Hant``, ``es_419``, ``cmn-hans-cn``) or a name in English, in any
    case.
    """
    plain = name.strip().lower().replace("_", "-")
    whole = _codes().get(plain.replace("-", "_").replace(" ", "_"))
    if whole is not None:
        return whole
    first, *subtags = plain.split("-")
    # An extended language subtag is the language: zh-yue is Cantonese.
    if first == "zh" and "yue" in subtags:
        return "yue"
    return _codes().get(first) if first in _tag_starts() else None


def spelling_of(name: str) -> str:
    """Return a hint for a language that Whisper has not: what was perhaps meant, or what it knows."""
    near = get_close_matches(name.strip().lower(), _codes(), 1, 0.75)
    if near:
        return f"did you mean {_codes()[near[0]]} ({near[0]})?"
    return f"Whisper knows {' '.join(LANGUAGES)}"


@cache
def _tag_starts() -> frozenset[str]:
    """Return what a BCP 47 tag may begin with: codes, not names."""
    return frozenset(name for name in _codes() if len(name) <= 3)
