"""What can be done in each environment family: names and values, as its recordings write them.

Every enum starts with its no-op. Order and spelling are part of a store's fingerprint: add, but never change them.
"""

from __future__ import annotations

CRAFTER_ACTIONS = (
    "noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone", "place_table",
    "place_furnace", "place_plant", "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe", "make_wood_sword",
    "make_stone_sword", "make_iron_sword",
)  # fmt: skip
BUTTON = ("0", "1")
BUTTONS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")
_TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
NAVIGATE_ENUMS = {"place": ("none", "dirt")}
OBTAIN_ENUMS = {
    "place": ("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
    "equip": ("none", "air", *_TOOLS),
    "craft": ("none", "torch", "stick", "planks", "crafting_table"),
    "nearbyCraft": ("none", *_TOOLS, "furnace"),
    "nearbySmelt": ("none", "iron_ingot", "coal"),
}

# BASALT 2021 (MineRL 0.4): Treechop's buttons and camera, `use`, and `equip`; no inventory, drop or hotbar. Source:
# minerl.herobraine.env_specs.basalt_specs, whose default items serve FindCave, MakeWaterfall and CreateVillageAnimalPen
# and whose village inventory serves BuildVillageHouse (with `#metadata` where one name has variants). One space for
# all four. BASALT 2022 recordings have VPT's format.
_BASALT_ITEMS = (
    "air", "bucket", "carrot", "cobblestone", "fence", "fence_gate", "snowball", "stone_pickaxe", "stone_shovel",
    "water_bucket", "wheat", "wheat_seeds",
)  # fmt: skip
_VILLAGE_ITEMS = (
    "acacia_door", "acacia_fence", "cactus", "dirt", "flower_pot", "glass", "ladder", "log#0", "log#1", "log2#0",
    "planks#0", "planks#1", "planks#4", "red_flower", "sand", "sandstone#0", "sandstone#2", "sandstone_stairs",
    "spruce_door", "spruce_fence", "stone_axe", "stone_stairs", "torch", "wooden_door", "wooden_pressure_plate",
)  # fmt: skip
BASALT_ENUMS = {"use": BUTTON, "equip": ("none", *_BASALT_ITEMS, *_VILLAGE_ITEMS, "other")}

# VPT's keys, without ESC, swapHands and pickItem, which its own action space leaves out as well (arXiv:2206.11795).
VPT_BUTTONS = (
    "attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory",
)  # fmt: skip
VPT_ENUMS = {"hotbar": ("none", *(str(slot) for slot in range(1, 10)))}
