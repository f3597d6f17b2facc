"""Sentences from small grammars, for the demo's corpus; here the English one, over about five hundred words."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np


def _unchanged(words: list[str]) -> list[str]:
    return words


@dataclass(frozen=True)
class Grammar:
    """What sentences of a language are made of.

    Args:
        words: classes of words, each a string of choices; ``_`` joins what is one choice of several words.
        rules: what else there is, each a string of choices between ``|``; the sentence is ``SENTENCE``.
        inflected: a class that is made of another: its name, and what becomes of each word.
        finish: what is done to a sentence's words in the end.
    """

    words: Mapping[str, str]
    rules: Mapping[str, str]
    inflected: Mapping[str, tuple[str, Callable[[str], str]]]
    finish: Callable[[list[str]], list[str]] = _unchanged

    def choices(self, share: float = 1.0) -> dict[str, list[list[str]]]:
        """Nonterminal -> its expansions, each a list of words and nonterminals."""
        choices = {name: [word.split("_") for word in block.split()] for name, block in self.words.items()}
        choices = {name: options[: math.ceil(share * len(options))] for name, options in choices.items()}
        choices |= {
            name: [[inflect(word)] for [word] in choices[of]] for name, (of, inflect) in self.inflected.items()
        }
        return choices | {name: [option.split() for option in block.split("|")] for name, block in self.rules.items()}


# Choices of one word; _ joins what is one choice of several.
_WORDS = {
    "PERSON": """baker brother captain doctor driver farmer father friend gardener hunter judge king lawyer merchant
        mother neighbor nurse painter queen sailor shepherd singer sister soldier stranger student teacher uncle
        writer""",
    "ANIMAL": "bear bird cat cow dog duck fox goat horse lion monkey pig rabbit tiger",
    "THING": """apple basket blanket boat book bottle bucket candle carpet chair clock coat coin cup drum engine
        fence flag guitar hammer jacket kettle lamp ladder letter machine map mirror needle paper pencil picture
        pillow plate ring rope saddle shirt shovel spoon statue stone sword table ticket towel trumpet umbrella
        wagon wheel whistle window""",
    "PLACE": """barn bridge castle corner desert field forest garden harbor hill hospital hotel house island kitchen
        lake market mountain museum office palace river road school station street theater tower town valley village
        yard""",
    "STUFF": """bread butter cheese coffee gold honey milk money rain rice salt silver snow sugar water wine wood
        music""",
    "QUALITY": """angry beautiful black blue brave bright broken brown calm careful cheap clean clever cold dark
        dirty empty famous foreign gentle golden green happy heavy honest hungry large lazy little lonely lucky
        modern narrow new nervous old patient polite poor proud quiet red rich sad serious silent simple slow small
        strange strong tall thin tired warm white wild wise wooden yellow young""",
    "NUMBER": "two three four five six seven eight nine ten twenty fifty several many some",
    "DID_IT": """broke brought built bought carried caught chose cleaned counted described dropped examined followed
        forgot found gave_away hid kept left liked lost moved needed noticed painted picked_up protected pushed
        remembered repaired sold sent_back showed stole studied took touched wanted washed watched""",
    "DO_IT": """break bring build buy carry catch choose clean count describe drop examine follow forget find hide
        keep leave like lose move need notice paint pick_up protect push remember repair sell send_back show steal
        study take touch want wash watch""",
    "DID": """arrived cried danced disappeared fell_asleep jumped laughed listened rested sang sat_down slept smiled
        stood_up stopped swam talked traveled waited walked whispered worked""",
    "DO": """arrive cry dance disappear fall_asleep jump laugh listen rest sing sit_down sleep smile stand_up stop
        swim talk travel wait walk whisper work""",
    "MANNER": """again alone calmly carefully early easily gladly happily late loudly often once quickly quietly
        sadly slowly soon suddenly together twice""",
    "TIME": """yesterday last_night last_week every_evening in_the_summer in_the_winter after_dinner
        before_breakfast on_monday on_friday this_morning long_ago all_day at_noon""",
    "WHERE": "in near behind beside at outside across from above under",
    "THE": "the the the the this that my your our his her their every",
    "MIGHT": "will can must should may would could",
    "HE": "he she they we i you nobody someone everyone",
    "HIM": "her him them us me it",
    "WHY": "why when where how",
    "AND": "and but because while until before after",
    "FELT": "seemed looked became felt stayed",
}

_RULES = {
    "SENTENCE": """CLAUSE | CLAUSE | CLAUSE | CLAUSE | CLAUSE | CLAUSE | CLAUSE AND CLAUSE | CLAUSE AND CLAUSE |
        TIME CLAUSE | did WHO DO_IT WHAT | WHY did WHO DO_IT WHAT | MIGHT HE DO_IT WHAT | WHY MIGHT WHO DO SOMEWHERE
        | please DO_IT WHAT | please DO_IT WHAT SOMEWHERE | never DO_IT WHAT | never DO SOMEWHERE | there was a
        QUALITY THING SOMEWHERE | there were NUMBER THINGS SOMEWHERE | there was no STUFF SOMEWHERE""",
    "CLAUSE": """WHO DID_IT WHAT | WHO DID_IT WHAT | WHO DID_IT WHAT SOMEWHERE | WHO DID_IT WHAT TIME | WHO DID_IT
        STUFF SOMEWHERE | WHO DID SOMEWHERE | WHO DID MANNER | WHO MIGHT DO_IT WHAT | WHO MIGHT DO MANNER | WHO
        MIGHT DO SOMEWHERE | WHO FELT QUALITY | WHO FELT QUALITY and QUALITY | THE THING FELT QUALITY | HE DID_IT
        WHAT | HE DID_IT HIM SOMEWHERE | HE MANNER DID_IT WHAT""",
    "WHO": """THE PERSON | THE PERSON | THE QUALITY PERSON | a PERSON | THE ANIMAL | a QUALITY ANIMAL | NUMBER
        PERSON_S | the PERSON_S""",
    "WHAT": """THE THING | THE QUALITY THING | a THING | a QUALITY THING | NUMBER THINGS | the THINGS | THE ANIMAL |
        THE PERSON | the STUFF""",
    "SOMEWHERE": "WHERE the PLACE | WHERE THE PLACE | WHERE the QUALITY PLACE | WHERE a PLACE",
    "THINGS": "THING_S | QUALITY THING_S | ANIMAL_S",
}


def _plural(noun: str) -> str:
    if re.search("(s|x|ch|sh)$", noun):
        return noun + "es"
    return re.sub("([^aeiou])y$", r"\1ie", noun) + "s"


def _expand(symbol: str, choices: dict[str, list[list[str]]], rng: np.random.Generator) -> Iterator[str]:
    if symbol not in choices:
        yield symbol
        return
    options = choices[symbol]
    for part in options[rng.integers(len(options))]:
        yield from _expand(part, choices, rng)


def _with_articles(words: list[str]) -> list[str]:
    vowel = ("a", "e", "i", "o", "u", "honest")
    return [
        "an" if word == "a" and following.startswith(vowel) else word
        for word, following in zip(words, [*words[1:], ""], strict=True)
    ]


ENGLISH = Grammar(
    _WORDS, _RULES, {f"{name}_S": (name, _plural) for name in ("PERSON", "ANIMAL", "THING")}, _with_articles
)


def sentences(
    seed: int, share: float = 1.0, shortest: int = 4, longest: int = 10, grammar: Grammar = ENGLISH
) -> Iterator[str]:
    """Yield distinct sentences without end, in lower case and without punctuation.

    Args:
        seed: of the draws; the same seed yields the same sentences.
        share: part of the words of each class that is used, above 0 and up to 1.
        shortest: words of the shortest one.
        longest: words of the longest one.
        grammar: of the language.

    >>> from itertools import islice
    >>> len(set(islice(sentences(seed=1), 1000)))
    1000
    """
    rng = np.random.default_rng(seed)
    choices = grammar.choices(share)
    seen: set[str] = set()
    while True:
        words = grammar.finish(list(_expand("SENTENCE", choices, rng)))
        sentence = " ".join(words)
        if shortest <= len(words) <= longest and sentence not in seen:
            seen.add(sentence)
            yield sentence


def vocabulary(share: float = 1.0) -> set[str]:
    """All words that English :func:`sentences` can yield."""
    words = {word for options in ENGLISH.choices(share).values() for option in options for word in option}
    return {word for word in words if word.islower()} | {"an"}
