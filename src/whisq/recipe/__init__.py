"""Recipes: ordered rules, a default type and what is protected. They read and write as TOML."""

from whisq.recipe.recipe import Match, Recipe, Rule, Selector, parse_rule
from whisq.recipe.toml import load_recipe, preset_names, save_recipe

__all__ = [
    "Match",
    "Recipe",
    "Rule",
    "Selector",
    "load_recipe",
    "parse_rule",
    "preset_names",
    "save_recipe",
]
