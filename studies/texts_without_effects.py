"""Texts that ask for no effect of the mini-world's library, by kind and length: what people may type all the same.

Composed from lists that were written for this study, without the bank of content and the mini-world's captions at hand; plain
colours and a few of the commonest words stand in all of them. Effects that the library lacks are unlike the 16 that it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LENGTHS = (1, 5, 10, 20, 40, 60)


def _list(text: str) -> list[str]:
    return [" ".join(each.split()) for each in text.split(",")]


SUBJECTS = _list(
    """accordion, anvil, badger, baker, ballerina, banjo, beaver, blacksmith, bucket, canoe, carpenter, carriage, cello, chimney,
    cobbler, compass, crocodile, cushion, detective, dolphin, donkey, drum, ferry, plumber, flamingo, fountain, giraffe, gondola,
    grandmother, hammock, harp, hedgehog, kangaroo, kettle, ladder, letterbox, librarian, lizard, lobster, mechanic, melon, monk,
    moose, necklace, octopus, otter, parrot, peacock, penguin, piano, pirate, rabbit, raccoon, sailor, samurai, scarecrow,
    scooter, sculptor, shepherd, shovel, spaceship, squirrel, stallion, submarine, suitcase, surgeon, swan, teapot, telescope,
    tent, toaster, trumpet, typewriter, unicorn, violin, waiter, walrus, wardrobe, warrior, wheelbarrow, wolf, zebra"""
)
COLOURS = _list(
    """red, yellow, green, blue, orange, purple, pink, black, white, grey, brown, crimson, scarlet, navy, olive, maroon, lilac,
    magenta, cyan, ivory, khaki, burgundy, mustard, coral, indigo, plum, cream, lime"""
)
SIZES = _list("small, large, tiny, huge, tall, narrow, broken, shiny, dusty, elegant, rusty, brand new, sturdy, slender")
MATERIALS = _list(
    """brick, marble, leather, linen, velvet, bronze, concrete, plywood, denim, porcelain, rubber, straw, silk, granite, bamboo,
    plastic, wicker, cardboard, tin, ceramic"""
)
PLACES = _list(
    """harbour, wharf, bakery, staircase, attic, courtyard, canyon, vineyard, airport, tunnel, museum, cathedral, greenhouse,
    orchard, quarry, stadium, subway station, swamp, theatre, rooftop, balcony, bazaar, cellar, cemetery, cornfield, farmyard,
    hallway, hospital, jungle, laboratory, monastery, motorway, oasis, pier, playground, prison, railway platform, savannah,
    shipyard, stable, supermarket, warehouse, waterfall, workshop, zoo"""
)
THINGS = _list(
    """awning, tablecloth, curtain, railing, carpet, rooftiles, doorway, cobblestones, bookshelf, mirror, pillow, parcel, bowl of
    soup, teacup, newspaper, bottle of ink, stack of plates, row of chairs, pile of logs, wall, ceiling, floor, background, sky"""
)
ACTIONS = _list(
    """juggling, reading a newspaper, asleep, waving, climbing, playing chess, eating noodles, fishing, kneeling, leaning on a
    railing, pointing at something, laughing, yawning, carrying a parcel, drinking tea, whistling, crossing the street, waiting,
    jumping, singing"""
)
NEAR = _list("beside, inside, behind, opposite, near, outside, above, below, across from, at the edge of")
COUNTS = _list("two, three, four, five, several, a dozen, many, a pair of")
TAGS = _list(
    """1woman, 3girls, smile, grin, frown, freckles, braid, hair ribbon, glasses, sailor collar, kimono, apron, choker, gauntlets,
    armour, cape, boots, barefoot, crossed arms, arms behind back, peace sign, wink, tongue out, sweat, tears, fangs, cat ears,
    tail, wings, horns, pointy ears, hair bun, side ponytail, ahoge, messy hair, red hair, purple eyes, heterochromia, grey
    hoodie, striped socks, pleated skirt, hair over one eye, looking back, looking away, from below, close-up, wide shot, dutch
    angle, profile, dynamic pose, seated, leaning forward, arm up, holding sword, holding book, bedroom, classroom, train
    interior, window sill, couch, stuffed toy, simple background, crowd, multiple boys, long_sleeves, holding_sword,
    looking_down, black_gloves, red_necktie, hair_between_eyes, hands_in_pockets, green_jacket, wooden_floor, night_dress,
    blue necktie, white apron, yellow raincoat, pink bow, orange eyes, red scarf, white shirt, teeth, eyebrows, midriff,
    torn clothes"""
)
FIRST = _list(
    """Ingrid, Tomasz, Beatrice, Hiroshi, Fatima, Declan, Lucia, Mateo, Priya, Sven, Chidi, Margaret, Yusuf, Elodie, Rafael,
    Nadia, Oscar, Wanda, Boris, Leila, Gustav, Naomi, Quentin, Ruth, Stella"""
)
LAST = _list(
    """Kowalski, O'Brien, Tanaka, Okafor, Lindgren, Moretti, Fernandez, Novak, Haddad, Schmidt, Whitaker, Patel, Ivanov, Larsen,
    Costa, Dupont, Yamada, Nguyen, Castle, Thorne, Greenwood, Blackwell, Rivers, Marsh, Stone"""
)
TOWNS = _list(
    """Lisbon, Cairo, Buenos Aires, Nairobi, Prague, Old Trafford, Loch Lomond, Mount Fuji, Kyoto, Brooklyn, Rue de Rivoli,
    Santorini, Bavaria, Patagonia, Sherwood, Lake Geneva, Mumbai, Hanoi, Dubrovnik, Green Bay, Red Square, Blue Ridge"""
)
TITLES = _list("Doctor, Sir, Queen, Aunt, Professor, Sergeant, Lady, Baron")
WORDS = _list(
    """almost, bargain, between, breakfast, bundle, careful, clever, coupon, dozen, eager, empty, engine, famous, gentle, habit,
    hollow, idea, journey, kindness, lucky, method, moment, narrow, nearly, number, odd, often, paperwork, perhaps, plenty, quick,
    quiet, random, reason, recipe, repair, silence, sister, sudden, ticket, tomorrow, tidy, travel, twelve, useful, visitor,
    weekly, wonder, yearly, zone, against, angry, beginner, choose, correct, danger, decision, during, evening, freedom"""
)
QUALITY = _list(
    """8k uhd, ultra sharp, insane detail, masterful, top tier, award-winning composition, crisp, flawless, official art,
    breathtaking, aesthetic, very high resolution, score_9, score_8_up, 16k, high fidelity, intricate, elegant, exquisite,
    trending, featured, professional grade, finest, perfect composition, ultra hd, rich detail, lots of details, wow, epic,
    magnificent, top quality, best quality, masterpiece, absurdres, extremely detailed, perfect face, beautiful hands, correct
    anatomy, detailed background, well drawn, polished, premium, gallery piece, viral, impressive, sharp, famous artist, highly
    detailed, stunning, state of the art, good composition, superb, delicate details, marvellous, 4k, best, HQ, top rated"""
)
FOREIGN = _list(
    """zwei Hunde im Hof, ein alter Schrank, guten Morgen, das Fenster ist offen, tres manzanas, una puerta vieja, buenos días,
    la abuela lee, trois pommes, une grande valise, bonne nuit, le chien dort, dwa koty, stary most, dzień dobry, iki elma,
    eski kapı, günaydın, due sedie, la nonna legge, duas maçãs, porta velha, drie appels, oude stoel, tre stolar, gammal dörr,
    старый мост, доброе утро, две собаки, 三个苹果, 旧门, 早上好, 二匹の犬, 古い椅子, おはよう, 두 마리 개, 오래된 문,
    ثلاث تفاحات,
    باب قديم, दो कुत्ते, पुराना दरवाज़ा, δύο σκύλοι, παλιά πόρτα, שני כלבים, hai con chó, cánh cửa cũ, kaksi koiraa, vanha ovi"""
)
MARKS = _list(
    """???, !!!, ..., --, ***, (((, ))), <>, #1, @@, %20, &&, :), ;-), ^^, ~~, ||, //, \\\\, 🙂, 🎉, 👍, 🚗, 🐙, 🍎, 😂, 🙏, ✨,
    👀, 💯, ☕, 🦊, 🎵"""
)
FILES = _list(
    "DSC_0193.JPG, tmp2, 0x3f, final_v2.png, a.txt, C:\\temp, http://x.y, 2024-01-05, 12:30, 3.14, -7, 00417, id=5, $HOME, NaN"
)
LACKING = _list(
    """embossed leather, made of toy bricks, bathed in green light, thick haze, pouring rain, thunder and lightning, rainbow
    stripes, chrome metal surface, carved from marble, wooden carving, knitted doll look, paper cutout collage, anime cel
    shading, manga inking, graffiti mural, tattoo flash art, neon tubes, hologram, thermal vision, x-ray scan, night sky full of
    stars, full moon, aurora, autumn leaves drifting, petals in the wind, soap bubbles, butterflies everywhere, confetti, smoke
    and dust, sandstorm, rays of light under water, lens flare streaks, motion trails, zoom blur, mirrored halves, upside down,
    widescreen bars, ornate picture frame, cross stitch, low poly, clay figures, isometric map, blueprint lines, grainy film, scan
    lines, cracked paint, rust and decay, overgrown with moss, crystal facets, glowing runes, acid green palette, purple duotone,
    black and white, harsh contrast, red lighting, strong shadows, silhouette, kaleidoscope, swirl distortion, wavy distortion,
    tilted horizon, miniature model look, macro closeup, floating feathers, flock of birds, spider webs, ivy and vines,
    tarot card, ancient fresco, woodcut, porcelain doll look, liquid metal, cyberpunk, gothic, art nouveau, baroque"""
)

LATER = {
    "scene": _list("wobbly, battered, spotless, lopsided, bulky, squeaky, ragged, sticky, upholstered, knotted, slanted"),
    "tags": _list(
        """hand on own chest, seen through a doorway, looking_at_another, leg up, head tilt, thumbs up, arms spread, eyelashes,
        over-the-knee boots, puffy sleeves, hair tie, sunburn, hugging own legs, looking over shoulder, detached collar, denim
        shorts, holding fan, outstretched hand, polka dot dress, eyepatch, tall grass, power lines, vending machine, wet hair"""
    ),
    "praise": _list(
        """exceptional clarity, top notch, museum quality, best in show, jaw dropping, insanely good, ultra fine detail,
        world class, lifelike details, sublime, phenomenal, great shading, very pretty,
        perfect hands, accurate fingers, fine artwork,
        lovely work, bestselling, hi-res, ultra realistic, professional lighting, unbelievable, gold award, clean"""
    ),
    "names": _list("Old Bill, Saint Agnes, Fort Worth, Silver Lake, Rosewood, Ember Hale, Autumn Frost, Grey Wolf Lodge"),
}
"""Written after what the first lists showed had been mended, without looking at the bank of content again."""


def _scene(rng: random.Random) -> str:
    pick = rng.choice
    subject, colour, place = pick(SUBJECTS), pick(COLOURS), pick(PLACES)
    size = pick((*SIZES, *LATER["scene"]))
    return pick(
        (
            subject,
            f"{colour} {subject}",
            f"{colour} {pick(THINGS)}",
            f"{size} {subject}",
            f"a {subject} in a {place}",
            f"a {size} {colour} {subject}",
            f"{size} {colour} {subject} on a {pick(MATERIALS)} {pick(THINGS)}",
            f"{pick(COUNTS)} {subject}s {pick(NEAR)} the {place}",
            f"a {subject} {pick(ACTIONS)}",
            f"a {subject} {pick(ACTIONS)} {pick(NEAR)} a {place}",
            f"{pick(MATERIALS)} {pick(THINGS)}",
            f"{colour} and {pick(COLOURS)} {pick(MATERIALS)} {subject}",
            f"a {subject} with a {colour} {pick(SUBJECTS)}",
            f"{pick(NEAR)} the {place}",
            f"a {subject} made of {pick(MATERIALS)} {pick(NEAR)} a {colour} {pick(THINGS)}",
        )
    )


def _name(rng: random.Random) -> str:
    pick = rng.choice
    first, last, town = pick(FIRST), pick(LAST), pick(TOWNS)
    return pick(
        (
            first,
            last,
            town,
            f"{first} {last}",
            f"{pick(TITLES)} {last}",
            f"{first} in {town}",
            f"portrait of {first} {last}",
            f"{first} and {pick(FIRST)} in {town}",
            f"by {first} {last}",
            f"{pick(TITLES)} {first} of {town}",
            f"the streets of {town}",
            pick(LATER["names"]),
        )
    )


def _word(rng: random.Random) -> str:
    return rng.choice((*WORDS, *MATERIALS, *PLACES, *SUBJECTS, *COLOURS, *SIZES))


def _garbage(rng: random.Random) -> str:
    mash = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9)))
    return rng.choice((rng.choice(FOREIGN), rng.choice(FOREIGN), rng.choice(MARKS), rng.choice(FILES), mash))


_KINDS: dict[str, tuple[Callable[[random.Random], str], str]] = {
    "scene": (_scene, ", "),
    "tags": (lambda rng: rng.choice((*TAGS, *LATER["tags"])), ", "),
    "names": (_name, ", "),
    "single words": (_word, " "),
    "praise": (lambda rng: rng.choice((*QUALITY, *LATER["praise"])), ", "),
    "garbage": (_garbage, " "),
    "effects it lacks": (lambda rng: rng.choice(LACKING), ", "),
}
KINDS = tuple(_KINDS)


def texts(kind: str, length: int, n: int, seed: int) -> list[str]:
    """At most n different texts of a kind, each of so many words; fewer for one word, of which there are not so many."""
    rng = random.Random(f"{seed} {kind} {length}")
    make, separator = _KINDS[kind]
    found: dict[str, None] = {}
    for _ in range(50 * n):
        found[_text(make, separator, length, rng)] = None
        if len(found) == n:
            break
    return list(found)


def _text(make: Callable[[random.Random], str], separator: str, length: int, rng: random.Random) -> str:
    phrases: list[str] = []
    left = length
    while left:
        fitting = (phrase for phrase in (make(rng) for _ in range(1000)) if len(phrase.split()) <= left)
        phrase = next(fitting)
        if phrase not in phrases or length > 20:
            phrases.append(phrase)
            left -= len(phrase.split())
    return separator.join(phrases)
