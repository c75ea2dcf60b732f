"""Make the three subset fonts again: python make_subset.py FOLDER (of NotoSansCJK-Regular.ttc and -Bold.ttc).

The figures' font keeps ASCII and characters.txt; the report's two keep Latin-1, GB2312 and report/characters.txt too.
Turns the CFF outlines into TrueType ones, because matplotlib embeds every font in a PDF as TrueType, and gives the
family a name of its own, so that a full Noto font on the machine is not taken instead.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable

FOLDER = Path(__file__).resolve().parent
FAMILY = "Noto Sans SC Subset"
SIMPLIFIED_CHINESE = 2  # place of the face "Noto Sans CJK SC" in the collection
MAX_ERROR = 1.0  # units of 1000 per em: not visible
FIGURES = "NotoSansSC-subset.ttf"
FILES = {  # name -> style
    FIGURES: "Regular",
    "report/NotoSansSC-subset.ttf": "Regular",
    "report/NotoSansSC-subset-bold.ttf": "Bold",
}


def wanted(name: str) -> set[int]:
    """Code points to keep: printable ASCII and characters.txt; for the report Latin-1 and all of GB2312 as well."""
    listed = (FOLDER / name).with_name("characters.txt").read_text(encoding="utf-8").replace("\n", "")
    if name == FIGURES:
        return {ord(character) for character in listed} | set(range(0x20, 0x7F))
    # Rows 16 to 87 of GB2312, 94 characters each; five places of row 55, the last of level 1, are empty.
    pairs = (bytes((row, cell)) for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF))
    chinese = "".join(pair.decode("gb2312", "ignore") for pair in pairs)
    return {ord(character) for character in listed + chinese} | {*range(0x20, 0x7F), *range(0xA0, 0x100)}


def load_subset(collection: Path, characters: set[int]) -> TTFont:
    """The Simplified Chinese face with only the wanted characters that it has."""
    options = subset.Options(
        layout_features=[], hinting=False, notdef_outline=True, name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14]
    )
    options.drop_tables += ["VORG", "vhea", "vmtx", "BASE", "GPOS", "GSUB", "GDEF", "DSIG"]
    font = TTFont(collection, fontNumber=SIMPLIFIED_CHINESE, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    return font


def to_truetype(font: TTFont) -> None:
    """Replace cubic CFF outlines by quadratic TrueType ones, in place."""
    glyphs, order = font.getGlyphSet(), font.getGlyphOrder()
    outlines = {}
    for name in order:
        pen = TTGlyphPen(glyphs)
        glyphs[name].draw(Cu2QuPen(pen, MAX_ERROR, reverse_direction=True))
        outlines[name] = pen.glyph()
    font["loca"], font["glyf"] = newTable("loca"), newTable("glyf")
    font["glyf"].glyphOrder, font["glyf"].glyphs = order, outlines
    font["glyf"].compile(font)  # gives every glyph its bounding box
    for name, glyph in outlines.items():
        font["hmtx"][name] = (font["hmtx"][name][0], getattr(glyph, "xMin", 0))
    limits = font["maxp"]
    limits.tableVersion = 0x00010000
    limits.maxZones, limits.maxTwilightPoints, limits.maxStorage, limits.maxFunctionDefs = 1, 0, 0, 0
    limits.maxInstructionDefs, limits.maxStackElements, limits.maxSizeOfInstructions = 0, 0, 0
    limits.maxComponentElements = 0
    font["post"].formatType, font["post"].extraNames, font["post"].mapping, font["post"].glyphOrder = 2.0, [], {}, order
    del font["CFF "]
    font.sfntVersion = "\000\001\000\000"


def rename(font: TTFont, style: str) -> None:
    """Give the family its own name; copyright and licence entries stay as they are."""
    postscript = f"{FAMILY.replace(' ', '')}-{style}"
    full = FAMILY if style == "Regular" else f"{FAMILY} {style}"
    for identifier, text in {1: FAMILY, 2: style, 3: postscript, 4: full, 6: postscript}.items():
        font["name"].setName(text, identifier, 3, 1, 0x409)
    font["name"].names = [entry for entry in font["name"].names if (entry.platformID, entry.langID) == (3, 0x409)]


def main() -> None:
    """Write the subset fonts beside this script."""
    if len(sys.argv) != 2:
        sys.exit("usage: python make_subset.py FOLDER, the folder of NotoSansCJK-Regular.ttc and NotoSansCJK-Bold.ttc")
    for name, style in FILES.items():
        font = load_subset(Path(sys.argv[1]) / f"NotoSansCJK-{style}.ttc", wanted(name))
        to_truetype(font)
        rename(font, style)
        if style == "Bold":
            font["post"].formatType = 3.0  # names of glyphs are for matplotlib, which has no use for this one
        font.save(FOLDER / name)
        print(f"{name}: {len(font.getGlyphOrder())} glyphs, {(FOLDER / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
