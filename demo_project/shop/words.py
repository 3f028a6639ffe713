"""The words that catalogue.py puts together."""

from __future__ import annotations

# Category → what it sells, and what such a thing usually costs in euros.
GOODS = {
    "Backpacks & bags": [("Backpack", 95), ("Tote", 38), ("Weekender", 140), ("Hip Pack", 32), ("Messenger Bag", 80)],
    "Bicycles": [("City Bike", 690), ("Saddle", 58), ("Bell", 14), ("Pannier", 75), ("Front Light", 42)],
    "Books & paper": [("Notebook", 16), ("Desk Diary", 24), ("Letter Set", 19), ("Sketchbook", 22), ("Pencil Box", 18)],
    "Camping": [("Tent", 260), ("Sleeping Mat", 70), ("Lantern", 45), ("Camp Stove", 60), ("Hammock", 55)],
    "Ceramics": [("Mug", 18), ("Bowl", 24), ("Vase", 46), ("Teapot", 62), ("Plate", 21)],
    "Chairs & tables": [("Armchair", 420), ("Stool", 95), ("Side Table", 150), ("Bench", 230), ("Desk", 380)],
    "Coffee & tea": [("Kettle", 68), ("Hand Grinder", 85), ("Dripper", 27), ("Moka Pot", 39), ("Milk Jug", 23)],
    "Garden": [("Watering Can", 34), ("Trowel", 19), ("Planter", 48), ("Pruner", 37), ("Bird House", 29)],
    "Kitchen": [("Chef's Knife", 98), ("Frying Pan", 72), ("Cutting Board", 44), ("Casserole", 130), ("Ladle", 16)],
    "Lamps": [("Table Lamp", 88), ("Floor Lamp", 190), ("Pendant", 125), ("Reading Light", 49), ("Wall Lamp", 76)],
    "Sound": [("Headphones", 160), ("Radio", 110), ("Bookshelf Speaker", 280), ("Turntable", 330), ("Metronome", 36)],
    "Wool & linen": [("Blanket", 115), ("Scarf", 48), ("Cushion", 39), ("Tea Towel", 15), ("Pullover", 128)],
}
MAKERS = (
    "Alder & Finch", "Birka", "Brava", "Calloway", "Dovetail", "Elmsworth", "Fjordby", "Granary", "Halden", "Ibex",
    "Juniper", "Kestrel", "Lumen", "Marlow", "Nordlys", "Oakhurst", "Pellworm", "Quill", "Rowan", "Saltmarsh",
    "Tilda", "Umber", "Verso", "Wrenfield", "Yarrow",
)  # fmt: skip
MATERIALS = (
    "Ash", "Brass", "Canvas", "Charcoal", "Copper", "Cork", "Indigo", "Ivory", "Linen", "Matte", "Moss", "Oak",
    "Ochre", "Rust", "Sage", "Slate", "Steel", "Walnut",
)  # fmt: skip
ABOUT = (
    "A {thing} for every day, finished in {material} by {maker} and meant to be mended rather than replaced.",
    "{maker} has made this {thing} since the workshop opened, and changed it twice. This is the {material} one.",
    "The plain {thing}: no app, no battery it does not need, just {material} that looks better after a year.",
    "Drawn on one sheet of paper, built by eight people. The {thing} that {maker} keeps for its own kitchen table.",
    "Smaller than it looks and heavier than you expect, this {material} {thing} stays where you put it.",
)
PROMISES = (
    "Spare parts for ten years.",
    "Made in small batches; the grain and the shade differ a little from piece to piece.",
    "Packed in paper, and nothing else.",
    "If it breaks, send it back and it will be mended.",
    "Comes with a card that says how to look after it.",
)
OPENINGS = {
    1: ("It broke in the first week.", "Nothing like the picture.", "I sent it back.", "A disappointment."),
    2: ("I hoped for more.", "It does the job, barely.", "Pretty, but not practical.", "Loose screws on arrival."),
    3: ("It is all right.", "Good idea, average finish.", "Does what it says.", "Neither good nor bad."),
    4: ("Very good, with one small flaw.", "I like it a lot.", "Solid work.", "Better than the one I had before."),
    5: ("I would buy it again tomorrow.", "Simply lovely.", "The best I have owned.", "Perfect, nothing to add."),
}
CLOSINGS = (
    "The colour is a little darker than on the screen.",
    "It came well packed, two days early.",
    "My neighbour has asked twice where I got it.",
    "After three months it still looks new.",
    "A bit heavier than I thought.",
    "I bought a second one for my sister.",
    "The instructions could be clearer.",
    "For the price I have no complaint.",
    "We use it every morning.",
    "The delivery took its time.",
)
AUTHORS = (
    "Ada", "Amir", "Bea", "Carlos", "Chidi", "Dana", "Edda", "Emil", "Farah", "Gus", "Hana", "Igor", "Ines", "Jonas",
    "Kaya", "Lars", "Leila", "Mei", "Milan", "Nadia", "Noor", "Olga", "Pablo", "Priya", "Rosa", "Sami", "Tara",
    "Theo", "Uma", "Vera", "Wim", "Yuki", "Zoe",
)  # fmt: skip
