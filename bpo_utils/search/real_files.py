"""Where the files of the real tasks come from: repository, commit, bytes and sha256 of each.

BIG-Bench Hard (arXiv 2210.09261, MIT): suzgunmirac/BIG-Bench-Hard. LIAR as ProTeGi's authors cut it (MIT):
microsoft/LMOps. GSM8K (arXiv 2110.14168, MIT): openai/grade-school-math; OPRO's authors keep the same rows as
tables (google-deepmind/opro), which may lie in a local folder instead.
"""

import os
from pathlib import Path

from bpo_utils import download
from bpo_utils.download import Pinned

FOLDER = "BPO_TASKS_DIR"
BBH_AT = ("https://raw.githubusercontent.com/suzgunmirac/BIG-Bench-Hard", "9ee07bd481feebf959a6b59d61ea57bdcf30964d")
LIAR_AT = "https://raw.githubusercontent.com/microsoft/LMOps"
GSM8K_AT = ("https://raw.githubusercontent.com/openai/grade-school-math", "3101c7d5072418e28b9008a6636bde82a006892c")
OPRO_AT = ("https://raw.githubusercontent.com/google-deepmind/opro", "9b8ad49129c128324c3cfa47ae3e8bc4e906015c")

BBH = {  # bytes, sha256
    "boolean_expressions": (17172, "ea6c754ec005e2d3f2d085d349a740f593b5764f32ea4638ffed4cfc0061b12a"),
    "causal_judgement": (202943, "6e8bca44dd402008ed41c07a3d0a1d5e7b03db7001a7e002fcdf4c60985ea081"),
    "date_understanding": (61760, "0148d4ac5fca05b2f82373e5fef7208e15363b9c6079493034d77b3dab496bf5"),
    "disambiguation_qa": (85255, "cf06df9ebf911b883671cb1b35d3fbd1a1c306b19b9e9a012407e596c85fe8c6"),
    "dyck_languages": (43814, "3f9badedf15c2be1ce53d94fdf016299bb30ba231ef087ab9f51a7ed6d0bdc25"),
    "formal_fallacies": (145562, "4c1adb664821157faade1d4153685403afcc02648f3c180a608a18f17f589629"),
    "geometric_shapes": (77242, "07be68a124420caa2ebc0b2c858ad79fc55c5c8806170e496e1e17ebfb11f31c"),
    "hyperbaton": (44706, "b6d7f55c75f5d02f2987a4f3123802dfa093872089a56a334144aae8a7264fdc"),
    "logical_deduction_five_objects": (155477, "d2df31394b903b7f0e085d42a69572a092987856eac076799017d70ef266fa8f"),
    "logical_deduction_seven_objects": (198404, "2896c7e3482eea318dd37bcc370d24ec3cc91e8374c1784287b5dbd38a529e33"),
    "logical_deduction_three_objects": (112213, "e590fae72e3a6041fbd23bd8ff6b74baf44ca563f6ba40a041c55e7b867c1681"),
    "movie_recommendation": (57684, "a8b53a87ee21a865b7248e694f388a9b8f7cf6b839b11d44796a2dd3fc088983"),
    "multistep_arithmetic_two": (18325, "c9d5a6433c9b78256422a15c78463949c8bec8d85607aa28b52d7234ad4a8595"),
    "navigate": (55163, "b7944dfd3c81da5c4815bd75b00d6fa3c64140823498e78ed496f4c3d36f7f0d"),
    "object_counting": (35890, "8acef14dbbdd40d2326ef7755750b6b5fe919fef06276af1bab3f1c297f022ff"),
    "penguins_in_a_table": (74516, "bb87ee449698eee51215e025a453b1bcb2f5e6589c2063b2c79e68b8f0655228"),
    "reasoning_about_colored_objects": (98694, "0a8850cf95166020fce7a78244026ceedd7ea839302471512b4f8744e85a6a49"),
    "ruin_names": (53178, "b6f723aef2bafdd4c7bfc3c7e0329c7e8a8279391a609969c8ed76c9319f5f7f"),
    "salient_translation_error_detection": (286443, "becf3eb8dd53c821a555ecd5c1334ecd93eb25f980e63be963c518e7138de5da"),
    "snarks": (42646, "54a0661fe2de06167645a4965e6bcf963c4ba307e76262a7c750998b0e3d0d0e"),
    "sports_understanding": (28617, "63ca262858f6176864515cd8cf53cdaa40839ebecc155b726d77930855d167bf"),
    "temporal_sequences": (148176, "92a1189faaa84aacc4c405aaa13f13f48c2992eb884772eedb622505252baef5"),
    "tracking_shuffled_objects_five_objects": (
        169722,
        "2063a46a4fb484236ed4310523606543a3e1dd4a4dc34eda65d407910ece25a5",
    ),
    "tracking_shuffled_objects_seven_objects": (
        214906,
        "b59fd05b850c37cf57cb514ae1e6975c00b1638ade2291722056b2af3c54084d",
    ),
    "tracking_shuffled_objects_three_objects": (
        128736,
        "546cc7bf10c6a01a6a4c17ae28a4966485f21f29fd5d111f37858ec78e354f6b",
    ),
    "web_of_lies": (52964, "3e60323f8514a107fdb4edf35f8832a9171c5a09c0eaa47823559de905e8ab8b"),
    "word_sorting": (66300, "2a6132d2c99f00d0d2eb1113ac6b4a918bd969d863c48749210d969713db8d43"),
}
LIAR = {  # commit (of the one that brought the file), bytes, sha256
    "train": (
        "b181ffc805a82cf2d074388ab900395017b63c7b",
        864567,
        "573ac065e16609a4ab0ae72751b2d3918ec6515dbb9a3adae1f244afe54ca989",
    ),
    "test": (
        "79656ba7f8ddd62f3b1d0b1d1040f36d3cdc60fe",
        107485,
        "c4400499e7d71cb57463e3f8d093962deb50a9e8f22fa377cad3c236eacfc8c3",
    ),
}
GSM8K = {
    "train": (4166206, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
    "test": (749738, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
}
GSM8K_TABLES = {  # question, answer, solution; the local form
    "train": (3999616, "214cfe400b76889de8dbdca3ba83bdd82fb976f8215a666d79f714d0275c51b2"),
    "test": (720400, "479039c8f782f375675e525c8c715790d3a526b2c5a94120d4234ea818cca6d4"),
}


def bbh(name: str) -> Path:
    """The file of one BIG-Bench Hard task. Raises what `download.fetch` raises."""
    url, commit = BBH_AT
    return download.fetch(f"bbh/{name}.json", pinned=Pinned(commit, f"bbh/{name}.json", *BBH[name], url, FOLDER))


def liar(part: str) -> Path:
    """The file of LIAR's train or test part."""
    commit, size, sha256 = LIAR[part]
    path = f"prompt_optimization/data/liar/{part}.jsonl"
    return download.fetch(f"liar/{part}.jsonl", pinned=Pinned(commit, path, size, sha256, LIAR_AT, FOLDER))


def gsm8k(part: str) -> Path:
    """The file of GSM8K's train or test part: in a local folder OPRO's table if it is there, else JSON Lines."""
    local, table = os.environ.get(FOLDER), f"gsm8k_{part}.tsv"
    if local and (Path(local) / table).is_file():
        url, commit = OPRO_AT
        pinned = Pinned(commit, f"data/gsm_data/gsm_{part}.tsv", *GSM8K_TABLES[part], url, FOLDER)
        return download.fetch(table, pinned=pinned)
    url, commit = GSM8K_AT
    pinned = Pinned(commit, f"grade_school_math/data/{part}.jsonl", *GSM8K[part], url, FOLDER)
    return download.fetch(f"gsm8k_{part}.jsonl", pinned=pinned)
