"""Make NotoSansSC-subset.ttf again: python make_subset.py PATH/NotoSansCJK-Regular.ttc (see README.md).

Keeps the characters of characters.txt and ASCII, turns the CFF outlines into TrueType ones, because matplotlib embeds
every font in a PDF as TrueType, and gives the family a name of its own, so that a full Noto font on the machine is not
taken instead.
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


def load_subset(collection: Path) -> TTFont:
    """The Simplified Chinese face with only the characters of characters.txt and printable ASCII."""
    options = subset.Options(
        layout_features=[], hinting=False, notdef_outline=True, name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14]
    )
    options.drop_tables += ["VORG", "vhea", "vmtx", "BASE", "GPOS", "GSUB", "GDEF", "DSIG"]
    font = TTFont(collection, fontNumber=SIMPLIFIED_CHINESE, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    listed = (FOLDER / "characters.txt").read_text(encoding="utf-8").replace("\n", "")
    subsetter.populate(unicodes={ord(character) for character in listed} | set(range(0x20, 0x7F)))
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


def rename(font: TTFont) -> None:
    """Give the family its own name; copyright and licence entries stay as they are."""
    postscript = FAMILY.replace(" ", "") + "-Regular"
    for identifier, text in {1: FAMILY, 2: "Regular", 3: postscript, 4: FAMILY, 6: postscript}.items():
        font["name"].setName(text, identifier, 3, 1, 0x409)
    font["name"].names = [entry for entry in font["name"].names if (entry.platformID, entry.langID) == (3, 0x409)]


def main() -> None:
    """Write the subset font beside this script."""
    if len(sys.argv) != 2:
        sys.exit("usage: python make_subset.py PATH/NotoSansCJK-Regular.ttc")
    font = load_subset(Path(sys.argv[1]))
    to_truetype(font)
    rename(font)
    target = FOLDER / "NotoSansSC-subset.ttf"
    font.save(target)
    print(f"{target.name}: {len(font.getGlyphOrder())} glyphs, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
