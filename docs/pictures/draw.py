"""Draw the diagrams of the documentation: python docs/pictures/draw.py"""

from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
SPEECH, TEXT, SHARED, TASK, FILE = "#cfe8e4", "#fbe3c0", "#d9d4f0", "#f6cdd2", "#ffffff"
STYLE = "font-family='Helvetica, Arial, sans-serif' font-size='14'"


class Picture:
    """Boxes, arrows and words on a white ground; sizes in pixels, (0, 0) at the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def words(self, x: float, y: float, text: str, anchor: str = "middle", color: str = "#222222") -> None:
        """Text with its middle (or its start) at x and its base line at y."""
        self.parts.append(f"<text x='{x}' y='{y}' text-anchor='{anchor}' fill='{color}'>{escape(text)}</text>")

    def box(self, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
        """A box with lines of text in its middle."""
        self.parts.append(
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='{color}' stroke='#555555'/>"
        )
        lines = text.split("\n") if text else []
        for number, line in enumerate(lines):
            self.words(x + width / 2, y + height / 2 + 5 + 18 * (number - (len(lines) - 1) / 2), line)

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """A line through points, with a head at its end."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dashes = " stroke-dasharray='5 4'" if dashed else ""
        self.parts.append(f"<polyline points='{path}' fill='none' stroke='#333333' marker-end='url(#head)'{dashes}/>")

    def save(self, name: str) -> None:
        """Write ``name.svg`` beside this file."""
        head = (
            "<marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' orient='auto'>"
            "<path d='M0,0 L10,5 L0,10 z' fill='#333333'/></marker>"
        )
        opening = (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' "
            f"width='{self.width}' height='{self.height}' role='img' {STYLE}>"
        )
        ground = f"<rect width='{self.width}' height='{self.height}' fill='#ffffff'/>"
        content = [opening, f"<title>{escape(self.title)}</title>", f"<defs>{head}</defs>", ground, *self.parts]
        (HERE / f"{name}.svg").write_text("\n".join([*content, "</svg>"]) + "\n", encoding="utf-8")


def system() -> None:
    picture = Picture(860, 250, "From speech and text to a recognizer")
    picture.box(10, 20, 130, 50, "untranscribed\nspeech", SPEECH)
    picture.box(10, 100, 130, 50, "text that\nnobody spoke", TEXT)
    picture.box(10, 185, 130, 50, "transcribed\nspeech", SPEECH)
    picture.box(190, 20, 130, 50, "tokenize_speech", FILE)
    picture.box(190, 100, 130, 50, "tokenize_text", FILE)
    picture.box(370, 60, 130, 50, "pretraining:\none encoder", SHARED)
    picture.box(550, 122, 130, 50, "fine-tuning", SHARED)
    picture.box(730, 122, 120, 50, "recognizer\nor translator", TASK)
    picture.arrow((140, 45), (190, 45))
    picture.arrow((140, 125), (190, 125))
    picture.arrow((320, 45), (345, 45), (345, 75), (370, 75))
    picture.arrow((320, 125), (345, 125), (345, 95), (370, 95))
    picture.words(345, 35, "units")
    picture.words(345, 145, "units")
    picture.arrow((500, 85), (525, 85), (525, 140), (550, 140))
    picture.arrow((140, 210), (525, 210), (525, 155), (550, 155))
    picture.words(520, 75, "weights", anchor="start")
    picture.arrow((680, 147), (730, 147))
    picture.save("system")


def units() -> None:
    picture = Picture(700, 210, "Speech and text become the same units")
    spans = [("SIL", 60), ("HH", 50), ("AH", 60), ("L", 70), ("OW", 110), ("SIL", 60)]
    x = 150
    picture.words(10, 45, "speech: “hello”", anchor="start")
    picture.words(10, 175, "text: “hello”", anchor="start")
    for number, (unit, width) in enumerate(spans):
        picture.box(x, 20, width, 40, unit, SPEECH)
        picture.words(x + width / 2, 85, str(width // 10))
        picture.box(150 + 75 * number, 150, 60, 40, unit, TEXT)
        x += width
    picture.words(580, 45, "what is heard", anchor="start")
    picture.words(580, 85, "frames it lasts", anchor="start")
    picture.words(400, 130, "the same inventory of units (units.json); text has no durations until they are drawn")
    picture.save("units")


def speechlm() -> None:
    picture = Picture(780, 470, "SpeechLM: UMLM on speech, UCTC on text")
    picture.box(60, 410, 220, 40, "waveform", FILE)
    picture.box(60, 350, 220, 40, "front end, then mask spans", SPEECH)
    picture.box(60, 280, 220, 50, "speech transformer", SPEECH)
    picture.box(60, 220, 220, 40, "swap some states for units", TASK)
    picture.box(60, 130, 640, 60, "shared transformer", SHARED)
    picture.box(480, 410, 220, 40, "units of a sentence", FILE)
    picture.box(480, 350, 220, 40, "unit embedding", TEXT)
    picture.box(480, 280, 220, 50, "mask spans", TEXT)
    picture.box(60, 40, 220, 60, "UMLM:\npredict masked units", TASK)
    picture.box(480, 40, 220, 60, "UCTC:\nspell the characters", TASK)
    picture.box(310, 275, 140, 60, "UMLM:\nthe same, here", TASK)
    for x in (170, 590):
        picture.arrow((x, 410), (x, 390))
        picture.arrow((x, 350), (x, 330))
        picture.arrow((x, 130), (x, 100))
    picture.arrow((170, 280), (170, 260))
    picture.arrow((170, 220), (170, 190))
    picture.arrow((280, 305), (310, 305))
    picture.arrow((590, 280), (590, 190))
    picture.arrow((480, 370), (380, 370), (380, 355), (295, 355), (295, 240), (280, 240), dashed=True)
    picture.save("speechlm")


def swapping() -> None:
    picture = Picture(760, 200, "Random swapping")
    masked, swapped = {2, 3, 4, 9, 10, 11}, {6, 7}
    for number in range(13):
        color = "#cccccc" if number in masked else TEXT if number in swapped else SPEECH
        picture.box(40 + 52 * number, 50, 44, 50, "", color)
    for place, color, text in ((40, SPEECH, "state of speech"), (260, "#cccccc", "masked"), (430, TEXT, "")):
        picture.box(place, 140, 24, 24, "", color)
        picture.words(place + 34, 157, text, anchor="start")
    picture.words(464, 157, "embedding of the frame's unit, swapped in", anchor="start")
    picture.words(40, 35, "what enters the shared transformer, frame by frame", anchor="start")
    picture.save("swapping")


def slam() -> None:
    picture = Picture(780, 400, "SLAM: speech, text and pairs in one encoder")
    picture.box(60, 340, 220, 40, "speech", FILE)
    picture.box(60, 260, 220, 60, "speech encoder\n(Conformer layers)", SPEECH)
    picture.box(480, 340, 220, 40, "text in SentencePiece tokens", FILE)
    picture.box(480, 260, 220, 60, "text embedding", TEXT)
    picture.box(60, 150, 640, 60, "shared encoder (Conformer layers)", SHARED)
    picture.words(380, 232, "a pair enters as one sequence: speech, then text")
    picture.box(60, 40, 200, 70, "w2v-BERT: contrast,\nand masked codes", TASK)
    picture.box(280, 40, 200, 70, "pairs: TLM (both masked)\nand STM (do they match?)", TASK)
    picture.box(500, 40, 200, 70, "span masking:\npredict masked tokens", TASK)
    for x in (170, 590):
        picture.arrow((x, 340), (x, 320))
        picture.arrow((x, 260), (x, 210))
    for x in (160, 380, 600):
        picture.arrow((x, 150), (x, 110))
    picture.save("slam")


def maestro() -> None:
    picture = Picture(820, 470, "MAESTRO: text is matched with speech frame by frame")
    picture.box(40, 410, 220, 40, "speech", FILE)
    picture.box(40, 330, 220, 50, "speech encoder", SPEECH)
    picture.box(540, 410, 240, 40, "phones of the text", FILE)
    picture.box(540, 345, 240, 40, "text encoder", TEXT)
    picture.box(540, 285, 240, 40, "resampler: repeat each phone", TEXT)
    picture.box(540, 225, 240, 40, "refiner", TEXT)
    picture.box(310, 285, 180, 50, "durations: best path,\nor duration model", TASK)
    picture.box(310, 225, 180, 40, "modality matching", TASK)
    picture.box(40, 130, 740, 60, "shared encoder", SHARED)
    picture.box(40, 30, 220, 70, "w2v-BERT\non speech", TASK)
    picture.box(300, 30, 220, 70, "RNN-T\non pairs", TASK)
    picture.box(560, 30, 220, 70, "aligned MLM: RNN-T\non masked text", TASK)
    picture.arrow((150, 410), (150, 380))
    picture.arrow((150, 330), (150, 190))
    picture.arrow((660, 410), (660, 385))
    picture.arrow((660, 345), (660, 325))
    picture.arrow((660, 285), (660, 265))
    picture.arrow((660, 225), (660, 190))
    picture.arrow((490, 305), (540, 305))
    picture.arrow((540, 245), (490, 245))
    picture.arrow((150, 245), (310, 245))
    for x in (150, 410, 670):
        picture.arrow((x, 130), (x, 100))
    picture.save("maestro")


def house() -> None:
    floors = [
        "demo · training · serving",
        "evaluation",
        "tokenizers · inference · interop",
        "models",
        "pronouncing · decoding · testing",
        "data · alignment · language_models",
        "jobs",
        "modules · units",
        "errors · checks · files · kernels · losses",
    ]
    picture = Picture(500, 10 + 46 * len(floors), "The rooms; each imports only from those below")
    for number, rooms in enumerate(floors):
        picture.box(10, 10 + 46 * number, 400, 40, rooms, SHARED if rooms == "models" else FILE)
    picture.arrow((440, 20), (440, 40 * len(floors) + 40))
    picture.words(450, 220, "imports", anchor="start")
    picture.save("house")


if __name__ == "__main__":
    for draw in (system, units, speechlm, swapping, slam, maestro, house):
        draw()
