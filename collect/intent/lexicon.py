"""What the intent gate knows about English words: closed classes, near synonyms, and words that exclude each other.

Sentence encoders place opposites and siblings (small and large, red and blue, day and night) as close together as
synonyms, so what must never be confused is said here. All words are lemmas, separated by blanks.
"""

# ruff: noqa: SIM905 - word lists read better as text than as lists of quoted words

# Grammar, verbs that carry little, and words about the video itself rather than about what it shows.
STOP_WORDS = frozenset(
    """
    a an the this that these those some any each every other another such same own all several many much more most few
    i you he she it we they me him her us them my your his its our their mine yours ours theirs who whom whose which
    what where when why how there here and or but nor so yet if then than as while although though because since until
    unless whether of in on at by to from for with about against into onto through during before after over under up
    down out off again further once along across around amid amidst among upon within toward towards via per near is am
    are was were be been being do does did done doing has have had having can could will would shall should may might
    must very too just only also even ever rather quite really s t ll ve re d m
    get go come take make put let keep use give become seem appear feature show depict display capture portray present
    include contain create generate video clip footage film movie scene image picture photo something anything thing
    someone somebody kind sort type lot way please want need featured featuring shown depicted captured characterize
    say see seen
    """.split()
)

# Each basic colour and the shades that pass for it; a shade may belong to two.
_SHADES = {
    "red": "red crimson scarlet ruby vermilion cherry cardinal carmine burgundy maroon brick rust claret reddish",
    "orange": "orange tangerine apricot amber coral peach copper rust salmon pumpkin terracotta bronze orangish",
    "yellow": "yellow golden gold lemon mustard canary saffron amber blonde blond ochre cream yellowish",
    "green": "green emerald jade olive lime mint teal turquoise verdant chartreuse moss sage khaki viridian greenish",
    "blue": "blue azure cobalt navy sapphire cerulean cyan teal turquoise indigo ultramarine aqua aquamarine bluish",
    "purple": "purple violet lavender lilac mauve magenta plum indigo amethyst burgundy aubergine purplish",
    "pink": "pink rose fuchsia magenta salmon coral peach blush pinkish",
    "brown": "brown tan beige bronze chestnut chocolate khaki maroon mahogany sepia umber rust brunette tawny brownish",
    "black": "black ebony jet onyx raven obsidian blackish",
    "white": "white ivory cream alabaster pearl snowy beige whitish",
    "grey": "grey gray silver slate charcoal ash ashen silvery greyish grayish",
}
COLOURS: dict[str, frozenset[str]] = {
    shade: frozenset(basic for basic, others in _SHADES.items() if shade in others.split())
    for shades in _SHADES.values()
    for shade in shades.split()
}
# Shades that are also things: "a lemon" and "two roses" are no colours, "a lemon ball" is one.
THINGS = frozenset(
    """
    ruby cherry cardinal brick rust orange tangerine apricot amber coral peach copper salmon pumpkin bronze gold lemon
    mustard canary cream emerald jade olive lime mint moss sage navy sapphire violet lavender lilac plum rose blush
    chestnut chocolate mahogany jet onyx raven ivory pearl silver slate charcoal ash snowy blonde blond brunette
    """.split()
)

# What around a thing has a colour of its own: a blue sky makes no bird blue.
SURROUNDINGS = frozenset(
    """
    sky sea ocean water wave lake river sand beach grass lawn meadow field leaf leaves foliage tree forest hill mountain
    landscape cloud snow fog light sunlight moonlight lighting glow hue sunset sunrise horizon background backdrop
    wall floor table tabletop tablecloth counter shelf curtain carpet road asphalt eye eyes hair flower flowers petal
    """.split()
)

NUMBERS: dict[str, str] = {
    word: str(number)
    for number, words in {
        1: "one single lone solitary",
        2: "two couple pair both duo twin twins double",
        3: "three trio triple triplet",
        4: "four quartet quadruple",
        5: "five quintet",
        6: "six",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
        11: "eleven",
        12: "twelve dozen",
        20: "twenty",
        30: "thirty",
        50: "fifty",
        100: "hundred",
        1000: "thousand",
    }.items()
    for word in words.split()
}
# Number words that a prompt may use for other things: "a couple", "a double bed".
LOOSE_NUMBERS = frozenset("one single lone solitary couple pair both duo twin twins double triple quartet".split())

NEGATIONS = frozenset("no not without never none nothing neither nor cannot n't".split())
ABSENCES = frozenset("empty absent devoid free lack lacking lacks missing absence void deserted unoccupied".split())

# Any word of a set may stand for any other. Words may be in several sets.
_SYNONYMS = """
ball sphere orb globe
box crate carton container
pyramid triangle tetrahedron
roll wheel trundle
fall drop plunge plummet tumble descend
float drift waft hover glide
bounce hop spring bound rebound
stand rest stay remain
hill slope hillside mound knoll
meadow field pasture grassland
beach shore coast seaside shoreline seashore coastline
street road avenue roadway boulevard
daylight sunshine sunlight daytime
night midnight nighttime
small little tiny miniature mini petite diminutive
large big huge giant enormous massive gigantic immense oversized
couch sofa settee
tv television
airplane plane aircraft jet airliner
bicycle bike cycle
motorcycle motorbike
car automobile sedan
truck lorry pickup
boat ship vessel sailboat
cell mobile smartphone
phone telephone smartphone
remote controller
cup mug
cafe café coffeehouse
laptop notebook
handbag purse
backpack rucksack
donut doughnut
drier dryer
mouse mice
rabbit bunny
dog puppy canine pup
cat kitten feline kitty
horse stallion mare steed pony
cow cattle bovine
sheep lamb ewe ram
bird fowl songbird
bike cycling
forest wood woods woodland
sea ocean
mountain peak summit
house home cottage
path trail pathway
river stream
rock stone boulder
kid child
woman lady female
man gentleman guy male
boy lad
girl lass
people crowd
baby infant toddler
movie film cinema
beautiful pretty gorgeous lovely stunning picturesque breathtaking
cute adorable charming
happy joyful cheerful joyous happily delighted
calm tranquil serene peaceful quiet tranquility serenity
old ancient aged elderly antique vintage
fast quick rapid swift speedy
slow slowly leisurely gentle unhurried
smile grin beam
run sprint dash
walk stroll wander
jump leap hop
shout yell scream
talk speak chat converse
look gaze stare
watch observe view
eat consume bite munch devour
drink sip lap
begin start
stop halt brake
accelerate speed
turn rotate spin revolve
shake tremble vibrate quiver
shine glow gleam
shiny gleaming glossy
heavy intense torrential
downpour rain rainstorm
tableau scene setting
background backdrop
backdrop setting
sunset dusk twilight sundown
sunrise dawn daybreak
aerial overhead
painting artwork
style stylized aesthetic inspired
surrealism surreal surrealist surrealistic
animated animation
picture image
garbage trash rubbish
movie film
autumn fall
spring springtime
"""
SYNONYMS: dict[str, frozenset[str]] = {}
for _line in _SYNONYMS.split("\n"):
    for _word in _line.split():
        SYNONYMS[_word] = SYNONYMS.get(_word, frozenset()) | frozenset(_line.split()) - {_word}

# A general word is kept by any of the words that are a kind of it, but not the other way round.
KINDS: dict[str, frozenset[str]] = {
    word: frozenset(kinds.split())
    for words, kinds in {
        "person": "man woman boy girl child kid individual figure people guy lady gentleman human adult teenager "
        "player dancer chef artist athlete musician worker barber skater skier surfer swimmer climber runner rider "
        "cyclist craftsman potter painter performer student teacher singer enthusiast male female skateboarder "
        "snowboarder",
        "people": "man woman boy girl child kid individual crowd pedestrian visitor family couple friend group",
        "couple": "man woman husband wife partner",
        "child": "boy girl kid toddler baby",
        "animal": "dog cat horse cow sheep bird elephant bear zebra giraffe lion tiger",
        "dog": "corgi puppy retriever terrier labrador shepherd poodle husky",
        "vehicle": "car truck bus motorcycle van",
        "food": "meal dish meat vegetable fruit salad burger",
        "vegetable": "carrot broccoli tomato onion pepper",
        "fruit": "apple banana orange berry grape",
        "tree": "oak pine palm maple birch willow",
        "flower": "rose tulip daisy lily sunflower orchid",
    }.items()
    for word in words.split()
}

# Too general to stand for anything in particular, however close: a vehicle is no car.
GENERAL = frozenset(
    """
    vehicle fruit food animal room building place drink beverage container furniture tool instrument plant clothing
    garment sport device object item material creature pet meal dish nature landscape area space weather color colour
    """.split()
)

# Within a group, words of different sets exclude each other.
OPPOSITES: tuple[tuple[frozenset[str], ...], ...] = tuple(
    tuple(frozenset(words.split()) for words in group)
    for group in (
        (
            "small little tiny miniature mini petite diminutive compact",
            "large big huge giant enormous massive gigantic immense oversized",
        ),
        (
            "day daytime daylight daylit noon midday sunlit sunny sunshine sunlight sun",
            "night nighttime midnight nocturnal moonlit moonlight moon",
        ),
        ("dawn sunrise morning", "noon midday afternoon", "evening dusk sunset sundown", "night midnight nighttime"),
        ("bright light", "dark dim gloomy"),
        (
            "roll wheel trundle",
            "fall drop plunge plummet descend sink",
            "float drift waft hover soar",
            "bounce hop bound rebound jump leap",
            "still motionless stationary static unmoving",
        ),
        ("ball sphere orb globe", "box crate carton cube", "pyramid triangle tetrahedron", "cylinder", "cone"),
        ("hill mountain slope hillside", "meadow field pasture", "beach shore coast", "street road avenue", "forest"),
        ("up upward upwards ascend rise climb", "down downward downwards descend fall sink"),
        ("left", "right"),
        ("fast quick rapid swift speedy quickly rapidly swiftly", "slow slowly leisurely sluggish"),
        ("accelerate speeding", "decelerate slowing"),
        ("hot warm", "cold cool icy frozen frosty"),
        ("wet", "dry arid"),
        ("open", "closed shut"),
        ("indoor indoors", "outdoor outdoors"),
        ("inside interior", "outside exterior"),
        ("young", "old elderly aged ancient"),
        ("new modern", "old ancient antique vintage"),
        ("happy joyful cheerful", "sad unhappy mournful"),
        ("man boy gentleman male guy", "woman girl lady female"),
        ("boy girl child kid baby toddler", "adult elderly"),
        ("summer", "winter", "autumn", "spring springtime"),
        ("snow snowy", "rain rainy", "fog foggy misty", "sunny"),
        ("empty deserted", "full crowded busy"),
        ("heavy", "light"),
        ("thick fat", "thin slim"),
        ("long tall", "short"),
        ("high", "low"),
        ("near close", "far distant"),
        ("start begin", "stop end finish halt"),
        ("loud noisy", "quiet silent"),
        ("clean", "dirty muddy"),
        ("rough", "smooth"),
        ("in", "out"),
        ("front", "back rear", "side"),
        ("top upper", "bottom lower"),
        ("cat kitten", "dog puppy", "horse pony", "cow", "sheep", "bird", "rabbit", "mouse", "bear", "zebra"),
        ("car", "bus", "truck", "motorcycle", "bicycle", "train", "boat ship", "airplane plane"),
        ("knife", "fork", "spoon"),
        ("cup", "bowl", "plate", "bottle", "glass", "vase"),
        ("chair", "couch sofa", "bed", "table desk", "bench"),
        ("apple", "orange", "banana", "pear", "lemon"),
        ("skateboard", "snowboard", "surfboard", "ski"),
        ("coffee", "tea", "milk", "beer", "wine", "juice"),
        ("sea ocean", "lake", "river", "pond"),
        ("east", "west", "north", "south"),
    )
)

# Places of one thing relative to another: how prompts say it, the words that keep it, and the opposite place.
RELATIONS: dict[str, tuple[str, str, str]] = {
    "left": (r"\b(?:on|to|at) (?:the|its|his|her|their) (?:\w+ )?left\b|\bleft of\b", "left leftmost", "right"),
    "right": (r"\b(?:on|to|at) (?:the|its|his|her|their) (?:\w+ )?right\b|\bright of\b", "right rightmost", "left"),
    "above": (
        r"\b(?:on|at) (?:the )?top of\b|\batop\b|\babove\b|\bon the top\b",
        "top atop above over upon overhead",
        "below",
    ),
    "below": (
        r"\b(?:on|at) the (?:bottom|underside) of\b|\bon the bottom\b"
        r"|\b(?:below|beneath|underneath|under(?! construction))\b",
        "bottom below beneath underneath under underside",
        "above",
    ),
    "on": (r"\bon(?= (?:an?|the) (?!left|right|top|bottom|underside|side|back))", "", "below"),
    "front": (r"\bin front of\b", "front foreground before", "behind"),
    "behind": (r"\bbehind\b|\bat the back of\b", "behind back rear background", "front"),
    "inside": (r"\binside(?: of)?\b", "inside within interior into in", "outside"),
    "outside": (r"\boutside(?: of)?\b", "outside exterior outdoors outdoor", "inside"),
    "between": (r"\bbetween\b", "between among amid amidst", ""),
    "beside": (r"\b(?:beside|next to|alongside|adjacent to)\b", "beside next alongside adjacent near by side", ""),
}

# Of these words, those that say which of two things is where, and those of them that always name the other thing.
PLACING: dict[str, tuple[str, ...]] = {
    "left": ("left",),
    "right": ("right",),
    "above": ("above", "atop", "top"),
    "below": ("below", "beneath", "underneath", "under", "bottom", "underside"),
    "on": ("on", "upon", "atop", "above"),
    "front": ("front",),
    "behind": ("behind",),
    "inside": ("inside",),
    "outside": ("outside",),
    "between": (),
    "beside": (),
}
PREPOSITIONS = frozenset("on upon above atop below beneath underneath under behind inside outside".split())

# What a camera does is a verb and a direction together.
CAMERA_MOVES = r"\b(zoom|tilt|pan|dolly|crane|pull|push|track)(?:s|[nm]?ing|[nm]?ed)? (in|out|up|down|left|right)\b"
