"""All files of a model as its users expect them: named, checked, evaluated, with a card, and uploaded where asked."""
