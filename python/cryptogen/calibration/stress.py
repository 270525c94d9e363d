"""The stress text: ordinary but unusual kinds of text, which reach further than prose does.

Calibration runs it beside the caller's text, because ranges that were chosen on prose alone break
on the rest: many equal words drive σ up, digits and hexadecimal reach scores that no sentence
reaches, other scripts other neurons. Everything here is written for this project or drawn from a
seeded generator, so there is nothing to license and both the package and the tests can make it
anew: `text(name, characters, seed)`. Another seed gives another text of the same class: plans are
made with seed 0, checked with others. A class is one long text, or many short ones (`SHORT`).
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator

from cryptogen.errors import InputError
from cryptogen.tokens.chat import Message

Maker = Callable[[random.Random, int], str]


def text(name: str, characters: int = 16_000, seed: int = 0) -> str:
    """At least `characters` characters of a class, deterministic. `InputError` for an unknown
    name."""
    if name not in CLASSES:
        raise InputError(f"stress text {name!r}, expected one of {', '.join(CLASSES)}")
    return CLASSES[name](random.Random(f"{name} {seed}"), characters)


def short(name: str, seed: int = 0) -> Iterator[str]:
    """Texts of a class of short ones, without end; each is a sequence of its own."""
    r = random.Random(f"{name} {seed}")
    while True:
        yield SHORT[name](r)


def names() -> tuple[str, ...]:
    """All classes of long texts, in the order of reports."""
    return tuple(CLASSES)


def _until(characters: int, piece: Callable[[], str]) -> str:
    """Pieces, until there is enough."""
    parts, length = [], 0
    while length < characters:
        parts.append(piece())
        length += len(parts[-1])
    return "".join(parts)


def _fill(r: random.Random, pattern: str, words: dict[str, str]) -> str:
    """Replaces each `{kind}` by a random word of that kind."""
    return string.Formatter().vformat(pattern, (), _Drawn(r, words))


class _Drawn(dict[str, str]):
    """A mapping that draws a new word at every access."""

    def __init__(self, r: random.Random, words: dict[str, str]) -> None:
        self._r, self._words = r, words

    def __getitem__(self, kind: str) -> str:
        return self._r.choice(self._words[kind].split("|"))


def _prose(patterns: str, per_paragraph: int = 6, join: str = " ", **words: str) -> Maker:
    """Paragraphs of sentences, one pattern a line."""
    lines = [line for line in patterns.strip().splitlines() if line]

    def make(r: random.Random, characters: int) -> str:
        def paragraph() -> str:
            return join.join(_fill(r, r.choice(lines), words) for _ in range(r.randint(2, per_paragraph))) + "\n\n"

        return _until(characters, paragraph)

    return make


_ENCYCLOPEDIA = _prose(
    """
The {thing} of {place} was first described in {year} by {name} , who worked at the university there until {year} .
It lies {n} kilometres north of {place} and has about {n} 000 inhabitants , most of whom work in {trade} .
Between {year} and {year} , the {thing} was rebuilt twice ; the second version , designed by {name} , still stands .
= = {thing} and {trade} = =
Critics praised the {thing} for its " {adjective} detail " , although {name} called it " {adjective} and overlong " .
During the war the {trade} of {place} declined , and by {year} only {n} of its {n} workshops were left .
The species grows to a length of {n} centimetres ( {n} in ) and is found in {adjective} waters near {place} .
{name} ( {year} – {year} ) was a {adjective} engineer and writer , best known for a study of the {thing} .
A census of {year} counted {n} households , {n} @.@ {n} percent of which were engaged in {trade} .
Its orbit has a period of {n} days and an eccentricity of 0 @.@ {n} , which makes it one of the most {adjective} known .
    """,
    thing="bridge|cathedral|observatory|comet|opera|manuscript|railway|lighthouse|treaty|garden|aqueduct|dictionary",
    place="Varna|Lindholm|Port Ellis|Maracay|Oulu|Tessaly|Ravensworth|Kandahar|Bergamo|Saint Ives|New Haven",
    name="Anna Keller|Tomas Brandt|R. H. Ellwood|Ines Duarte|Viktor Salo|Margaret Osei|Jun Takeda|Carl Lindqvist",
    trade="fishing|glass making|the timber trade|weaving|printing|salt mining|shipbuilding|watchmaking",
    adjective="remarkable|shallow|minute|ornate|neglected|austere|early|elliptical|influential|unfinished",
    year="1784|1812|1847|1871|1893|1906|1919|1938|1954|1968|1987|2003|2011",
    n="2|3|7|11|14|18|23|36|42|58|64|75|91|120|347",
)
_NEWS = _prose(
    """
<unk> <unk> said on <unk> that N of its N plants would close by N N and that <unk> workers would be <unk>
shares of <unk> rose N N to $ N in <unk> trading on the new york stock exchange while <unk> lost N N
mr. <unk> who is N years old joins the board of <unk> as a <unk> director expanding it to N members
the <unk> of <unk> and <unk> has <unk> the <unk> <unk> <unk> in the <unk> of <unk> a spokesman said
revenue for the N months ended sept. N was $ N million or N cents a share compared with $ N million a year <unk>
analysts at <unk> & <unk> <unk> expect <unk> rates to fall by N N points before the end of the <unk> quarter
the <unk> <unk> index fell N points to N as <unk> <unk> sold <unk> of <unk> and <unk>
    """,
    join=" \n ",
)
_STORIES = _prose(
    """
Once upon a time there was a {adjective} {animal} named {name} who lived in a {place} with {pronoun} best friend .
Every morning {name} ran to the {place} to look for {object}s, and every evening {pronoun} mother asked, \
"Did you find one?"
"I am not {feeling}," said the {animal}, but its voice shook and its {object} fell into the {place}.
Then {name} saw something {adjective} behind the {place}. It was a {object}! \
{name} was so {feeling} that everybody laughed.
One day it rained and rained. The {animal} and {name} sat under a {object} and told each other {adjective} stories.
They shared the {object}, and from that day on the {animal} was never {feeling} again. The end.
"{name}, {name}, come quick!" cried {name}. "The {animal} is stuck in the {place} and cannot get out!"
    """,
    adjective="little|brave|shiny|old|tiny|grumpy|golden|sleepy|clever|strange|red|kind",
    animal="rabbit|dragon|fox|duck|bear|mouse|puppy|owl|frog|pony",
    name="Lily|Tom|Mia|Ben|Sara|Max|Zoe|Finn|Anna|Leo",
    place="forest|kitchen|garden|river|castle|barn|park|cave|attic|meadow",
    object="ball|apple|kite|key|cake|stone|boat|hat|star|umbrella",
    feeling="afraid|happy|sad|proud|tired|lonely|surprised",
    pronoun="his|her|their",
)
_CAPITALS: Maker = lambda r, n: _ENCYCLOPEDIA(r, n // 2).upper() + _STORIES(r, n - n // 2).upper()  # noqa: E731
_GERMAN = _prose(
    """
Der {nomen} wurde {zeit} von der {stelle} geprüft, obwohl die {nomen2} noch nicht vollständig vorlagen.
Sehr geehrte Damen und Herren, hiermit bestätigen wir den Eingang Ihrer {nomen2} vom {zahl}. März.
Im {zeit} regnete es {zahl} Tage lang, so dass die {nomen2} im Tal überflutet wurden und die Brücke gesperrt blieb.
„Das ist {eigenschaft}“, sagte sie, „aber ohne den {nomen} kommen wir nicht weiter.“
Gemäß § {zahl} Abs. 2 haftet der {nomen} nur für Vorsatz und grobe Fahrlässigkeit; \
weitergehende {nomen2} bestehen nicht.
Die {stelle} in Köln veröffentlichte einen {eigenschaft}en Bericht über die Donaudampfschifffahrtsgesellschaft.
Wer früh aufsteht, der sieht den {nomen} über den Dächern, die Bäume am Fluss und die {eigenschaft}en Gärten.
    """,
    nomen="Vertrag|Antrag|Nebel|Bescheid|Zug|Kessel|Schlüssel|Turm|Verkäufer",
    nomen2="Unterlagen|Forderungen|Straßen|Rechnungen|Messwerte|Wiesen|Ansprüche",
    stelle="Behörde|Universität|Gesellschaft|Prüfstelle|Kommission",
    zeit="gestern|im Herbst|Anfang Juni|kürzlich|vor drei Jahren|Winter",
    eigenschaft="ausführlich|merkwürdig|gründlich|schön|überflüssig|spät",
    zahl="3|7|12|28|45|276|433",
)
_SPANISH = _prose(
    """
El {cosa} de {lugar} fue restaurado en {n} y desde entonces recibe a más de {n} mil visitantes al año.
¿Dónde está la {persona} que vino ayer? —preguntó el niño—. Dijo que volvería mañana con el {cosa}.
Según el artículo {n}, la {persona} deberá presentar la solicitud antes del día {n} de noviembre.
Llovía sobre {lugar}, y nadie recordaba ya cuándo había empezado aquella {adjetivo} estación.
¡Qué {adjetivo} sorpresa! Encontré el {cosa} debajo de la mesa, lleno de polvo y de canciones.
La inflación subió un {n} % en el último trimestre, mientras que el precio del {cosa} se mantuvo {adjetivo}.
    """,
    cosa="puente|mercado|teatro|pan|camión|reloj|jardín|manuscrito",
    lugar="Sevilla|Córdoba|la costa|Bogotá|el pueblo|Málaga",
    persona="señora|médica|vecina|inspectora|niña",
    adjetivo="extraña|larga|hermosa|estable|pequeña|última",
    n="3|5|12|18|27|40|95|1998|2014",
)
_RUSSIAN = _prose(
    """
В {год} году {кто} впервые описал этот {что} и передал рукопись в библиотеку.
Утром шёл снег, и {кто} долго смотрел в окно, вспоминая старый {что} у реки.
«Где мой {что}?» — спросила она тихо, но никто не ответил.
Согласно статье {год}, {кто} обязан представить документы в течение десяти дней.
Поезд опоздал на три часа, поэтому {кто} решил идти пешком через {что} и поле.
Учёные обнаружили, что {что} нагревается гораздо быстрее, чем предполагалось раньше.
    """,
    кто="инженер|старик|учитель|директор|почтальон|мальчик|капитан",
    что="мост|лес|ключ|дом|двигатель|сад|колодец|спутник",
    год="1812|1905|1961|1987|2004|17|42",
)
_CHINESE = _prose(
    """
{谁}昨天在{哪里}发现了一本很旧的书，书里夹着一张地图。
根据第{数}条的规定，{谁}应当在{数}天之内提交申请材料。
春天来了，{哪里}的花都开了，孩子们在河边放风筝。
这个模型的参数一共有{数}亿个，训练用了{数}台机器。
“你要去{哪里}吗？”{谁}问，“路很远，最好早一点出发。”
由于天气原因，从{哪里}出发的列车晚点了{数}分钟，请大家谅解。
    """,
    join="", 谁="老师|医生|小王|工程师|邻居|奶奶|经理", 哪里="北京|山里|图书馆|码头|南京路|学校|市场",
    数="三|五|十二|二十|37|128|九十",
)  # fmt: skip
_JAPANESE = _prose(
    """
{人}は{場所}で古い時計を見つけたので、すぐに修理屋へ持って行った。
来週の{数}日に会議がありますから、資料を{人}に送ってください。
雨が降っていたのに、{場所}にはたくさんの人が集まっていました。
第{数}条により、{人}は申請書を提出しなければならない。
「もう遅いよ」と{人}が言った。「{場所}まで歩いたら一時間かかる」
このモデルのパラメータは{数}億個で、学習には{数}日かかりました。
    """,
    join="", 人="先生|おばあさん|田中さん|社長|子ども|駅員", 場所="図書館|港|京都|山の上|コンビニ|公園",
    数="三|五|12|二十|48|七",
)  # fmt: skip
_ARABIC = _prose(
    """
وصل {من} إلى {أين} في الصباح الباكر وكان يحمل كتابا قديما.
وفقا للمادة {عدد} يجب على {من} تقديم الطلب خلال {عدد} يوما.
قالت الأم: لا تنس المفتاح، فالطريق إلى {أين} طويل.
ارتفعت الأسعار بنسبة {عدد} في المائة هذا العام، بينما بقي الإنتاج ثابتا.
جلس {من} قرب النهر يكتب رسالة إلى صديقه في {أين}.
    """,
    من="المعلم|المهندس|الطبيب|الولد|المدير|الجار",
    أين="السوق|المدينة|القاهرة|المكتبة|الميناء",
    عدد="٣|١٢|٢٥|40|١٩٨٧",
)
_FRENCH = _prose(
    """
L'{chose} du quartier a été rénovée en {n}, mais personne n'y habite plus depuis l'hiver dernier.
« Qu'est-ce que c'est que ça ? » demanda la {qui} en désignant l'{chose} cassée près de la fenêtre.
Conformément à l'article {n}, la {qui} dispose d'un délai de {n} jours pour répondre à la demande.
Il pleuvait sur Nantes ; la {qui} marchait vite, le col relevé, sans regarder l'{chose}.
Dès qu'elle eut goûté la soupe à l'oignon, la {qui} s'écria : « À table, les enfants ! »
    """,
    chose="église|école|horloge|armoire|auberge|usine",
    qui="boulangère|voisine|directrice|société|fille",
    n="7|14|30|121|1984|2009",
)
_HINDI = _prose(
    """
{कौन} कल सुबह {कहाँ} गया और वहाँ से एक पुरानी किताब ले आया।
धारा {अंक} के अनुसार {कौन} को {अंक} दिनों के भीतर आवेदन देना होगा।
बारिश इतनी तेज़ थी कि {कहाँ} की सारी सड़कें बंद हो गईं।
“तुम कहाँ जा रहे हो?” {कौन} ने पूछा।
    """,
    कौन="शिक्षक|डॉक्टर|किसान|लड़का|दुकानदार", कहाँ="बाज़ार|दिल्ली|नदी|गाँव|स्कूल", अंक="३|12|२५|40",
)  # fmt: skip


def _code(r: random.Random, characters: int) -> str:
    """Source code in several languages."""
    words = "node|index|buffer|total|item|cache|left|right|result|value|key|handle|offset|path|state|queue".split("|")
    types = "int|float|str|bytes|list[int]|dict[str, int]|bool".split("|")

    def python() -> str:
        a, b, c = r.sample(words, 3)
        return (
            f"def {a}_{b}({b}: {r.choice(types)}, {c}: {r.choice(types)} = None) -> {r.choice(types)}:\n"
            f'    """Return the {a} of {b}, or {c} if there is none."""\n'
            f'    if {b} is None or len({b}) < {r.randint(0, 64)}:\n        raise ValueError(f"{c}: {{{b}!r}}")\n'
            f"    for i, {c} in enumerate(sorted({b}, key=lambda x: x[{r.randint(0, 3)}])):\n"
            f"        self.{a}[{c}] += {r.random():.4f} * i\n"
            f"    return {{k: v for k, v in self.{a}.items() if v}}\n\n\n"
        )

    def c() -> str:
        a, b, c = r.sample(words, 3)
        return (
            f"static int {a}_{b}(struct {a} *{b}, size_t {c})\n{{\n\tif (!{b} || {c} > 0x{r.getrandbits(16):04X})\n"
            f"\t\treturn -EINVAL;\n\tfor (size_t i = 0; i < {c}; ++i)\n"
            f"\t\t{b}->{c}[i] ^= (uint32_t)({c} << {r.randint(1, 31)});\n"
            f"\treturn 0; /* {b} is now {c} */\n}}\n\n"
        )

    def script() -> str:
        a, b, c = r.sample(words, 3)
        return (
            f"export const {a} = async ({{ {b}, {c} }}) => {{\n"
            f"  const {b}{c.title()} = await fetch(`/api/{a}/${{{b}.id}}`);\n"
            f"  if (!{b}{c.title()}.ok) {{ throw new Error('{c} failed: ' + {b}.status); }}\n"
            f"  return {b}.map(x => x?.{c} ?? null).filter(Boolean);\n}};\n\n"
        )

    def query() -> str:
        a, b, c = r.sample(words, 3)
        return (
            f"SELECT t.{a}, COUNT(*) AS {b} FROM {c}s t LEFT JOIN {a}s u ON u.id = t.{a}_id\n"
            f"WHERE t.{b} >= {r.randint(1, 9999)} GROUP BY 1 HAVING COUNT(*) > {r.randint(1, 9)} ORDER BY 2 DESC;\n\n"
        )

    return _until(characters, lambda: r.choice((python, python, c, script, query))())


def _data(r: random.Random, characters: int) -> str:
    """JSON records, then CSV."""

    def record() -> dict[str, object]:
        return {
            "id": r.getrandbits(24), "uuid": f"{r.getrandbits(64):016x}", "active": r.random() < 0.5, "note": None,
            "score": round(r.gauss(0, 50), 3), "tags": r.sample(["a", "b1", "urgent", "x-ray", "n/a"], 2),
            "at": f"20{r.randint(10, 29)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}T{r.randint(0, 23):02}:15:00Z",
            "address": {"street": f"{r.randint(1, 99)} Mill Lane", "zip": f"{r.randint(10000, 99999)}"},
        }  # fmt: skip

    rows = "id;name;qty;price;total\n"
    csv = lambda: f"{r.randint(1, 9999)};Item {r.randint(1, 99)};{r.randint(1, 40)};{r.random() * 90:.2f};,\n"  # noqa: E731
    half = characters // 2
    return _until(half, lambda: json.dumps(record(), indent=2) + ",\n") + rows + _until(half, csv)


def _markup(r: random.Random, characters: int) -> str:
    """HTML, Markdown tables, LaTeX, log lines."""

    def piece() -> str:
        n, x = r.randint(1, 999), r.random() * 100
        return r.choice(
            (
                f'<tr class="row-{n}"><td>{n}</td><td style="width:{x:.1f}%">&nbsp;</td><td></td></tr>\n',
                f"| {n} | {x:.2f} | {'x' * r.randint(0, 9)} | `a_{n}` | |\n|---|---:|:-:|---|---|\n",
                f"\\begin{{equation}} \\sum_{{i=1}}^{{{n}}} \\frac{{x_i^{{{n}}}}}{{\\sqrt{{2\\pi}}}} = {x:.3f} "
                "\\end{equation}\n",
                f"2024-03-{r.randint(1, 28):02} 10:{r.randint(0, 59):02}:07,{n:03} "
                f"ERROR [worker-{n}] timeout after {x:.1f} ms\n",
                f"- [ ] **Task {n}**: see <https://example.org/{n}?q={x:.0f}&p={n}#top>\n",
            )
        )

    return _until(characters, piece)


def _hexadecimal(r: random.Random, characters: int) -> str:
    return _until(characters, lambda: r.choice("0123456789abcdef"))


def _base64(r: random.Random, characters: int) -> str:
    return _until(characters, lambda: base64.b64encode(r.randbytes(57)).decode() + r.choice(("", "", "\n")))


def _digits(r: random.Random, characters: int) -> str:
    """Numbers, dates, times, telephone numbers, measurements."""

    def piece() -> str:
        return r.choice(
            (
                f"{r.randint(1, 12):02}/{r.randint(1, 28):02}/{r.randint(1900, 2050)} ",
                f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02} ",
                f"+49 {r.randint(100, 999)} {r.randint(100000, 999999)}\n",
                f"{r.randint(0, 10 ** r.randint(1, 18))}, ",
                f"{r.uniform(-1e3, 1e3):.{r.randint(0, 8)}f} ",
                f"{r.randint(0, 9)} ",
            )
        )

    return _until(characters, piece)


def _emoji(r: random.Random, characters: int) -> str:
    faces = "😀😂🥰😭🤔👍🏽🎉🔥❤️✨🚀👩‍💻🇩🇪🇯🇵🐱🌈⚽🍕☕️➡️✅❌♻️™"
    return _until(characters, lambda: r.choice(faces) * r.choice((1, 1, 1, 2, 5)) + r.choice((" ", "", " ok ", "\n")))


def _one_word(r: random.Random, characters: int) -> str:
    word = r.choice(("yes", "no", "the", "data", "buffalo", "A", "0"))
    return f" {word}" * (characters // (len(word) + 1) + 1)


def _few_words(r: random.Random, characters: int) -> str:
    """A handful of words over and over, in runs."""
    words = r.sample(("alpha", "beta", "ha", "very", "no", "row", "null", "1"), 4)
    return _until(characters, lambda: f" {r.choice(words)}" * r.randint(1, 40))


def _spaces(r: random.Random, characters: int) -> str:
    return _until(characters, lambda: r.choice((" ", "\n", "\t", " \n", "\r\n")) * r.randint(1, 400))


def _line_breaks(r: random.Random, characters: int) -> str:
    return "\n" * characters


def _punctuation(r: random.Random, characters: int) -> str:
    return _until(characters, lambda: r.choice("-=_*#.~/\\|+<>[]{}()!?,;:'\"`^&%$@") * r.choice((1, 1, 2, 3, 80)))


def _long_lines(r: random.Random, characters: int) -> str:
    """Letters without a space: minified code, addresses, one endless word."""
    letters = string.ascii_letters + string.digits + "-_./%"
    return _until(characters, lambda: "".join(r.choices(letters, k=r.randint(40, 900))) + r.choice(("", "\n")))


def _mixed(r: random.Random, characters: int) -> str:
    """A piece of each other class, in random order."""
    others = [make for name, make in CLASSES.items() if name != "mixed"]
    return _until(characters, lambda: r.choice(others)(r, r.randint(40, 400))[:400] + "\n")


_PROMPTS = r"""
{verb} {noun} {n}
{noun} {noun} {n}
{Noun} {n}
{verb} {noun} {n}.{n}
{n} {noun}s
The {noun} of {place} is
What is the {noun} of {place}?
{verb} {place}
{place}:
{n} + {n} =
{verb} {noun} {n} of {place}
{verb} the {noun}, then the {noun}
Dear {Noun} {n},
def {noun}_{n}(
# {Noun} {n}
{noun},{noun},{noun}
{n}. {Noun}; {n}.
"{noun}": {n},
<{noun} id={n}>
""".strip().splitlines()
_NOUNS = "chapter|page|section|table|figure|step|route|room|verse|model|level|lesson|report|exit|volume|clause|gate"
_PROMPT_WORDS = {
    "noun": _NOUNS,
    "Noun": _NOUNS.title(),
    "verb": "See|Read|Open|Delete|Compare|Explain|Summarise|Translate|Find|Draw|Book|Cancel|Check|Sort",
    "place": "France|the Moon|Berlin|my house|this file|the second world war|Python|an onion|our contract",
    "n": "|".join(map(str, range(1, 200))),
}


def _prompt(r: random.Random) -> str:
    """What people begin with: a few words, often with a number. The first rows of a text have
    little to attend to, and small errors decide which of them the others will attend to."""
    return _fill(r, r.choice(_PROMPTS), _PROMPT_WORDS)


def _pair(r: random.Random) -> str:
    """Two things in turn, nothing else: an empty table, a broken key, a model that has lost its
    way."""
    parts = '. , ; : * - = | # / { } ( ) [] " > 0 1 2 x NULL \n \n\n \t'.split(" ")
    words = (" the", " no", " yes", " ok", " and", " of", "a", " data", " Maine", " republic", " copper", "ing", " ")
    return "".join(r.sample((*parts, *words), 2)) * 512


SHORT: dict[str, Callable[[random.Random], str]] = {"prompts": _prompt, "pairs": _pair}
CLASSES: dict[str, Maker] = {
    "encyclopedia": _ENCYCLOPEDIA, "newspaper": _NEWS, "stories": _STORIES, "capitals": _CAPITALS,
    "code": _code, "json-csv": _data, "markup": _markup,
    "hexadecimal": _hexadecimal, "base64": _base64, "digits": _digits,
    "german": _GERMAN, "spanish": _SPANISH, "french": _FRENCH, "russian": _RUSSIAN, "chinese": _CHINESE,
    "japanese": _JAPANESE, "arabic": _ARABIC, "hindi": _HINDI, "emoji": _emoji,
    "one-word": _one_word, "few-words": _few_words, "spaces": _spaces, "line-breaks": _line_breaks,
    "punctuation": _punctuation, "long-lines": _long_lines, "mixed": _mixed,
}  # fmt: skip


def conversation(characters: int = 16_000, seed: int = 0) -> list[Message]:
    """Turns of a chat about all the classes, at least so many characters, the user's first."""
    r, turns, length = random.Random(f"conversation {seed}"), list[Message](), 0
    while length < characters:
        question = f"{r.choice(_QUESTIONS)} {CLASSES[r.choice(names())](r, 60)[:200].strip()}"
        answer = f"{r.choice(_ANSWERS)}\n\n{CLASSES[r.choice(names())](r, 200)[:600].strip()}"
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        length += len(question) + len(answer)
    return [*turns, {"role": "user", "content": _QUESTIONS[0]}]


_QUESTIONS = (
    "Can you explain this to me?", "What comes next?", "Please translate:", "Fix the error in", "Summarise it:",
    "Why is this wrong?", "Write ten more like", "hi", "Rewrite it politely:", "Who said this?",
)  # fmt: skip
_ANSWERS = (
    "Of course! Here is what I found:", "I'm sorry, but I can't be sure. My best guess:", "1. First, look at this:",
    "```", "Yes.", "Here's a step-by-step explanation:", "No problem, here it is.",
)  # fmt: skip
