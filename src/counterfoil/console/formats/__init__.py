"""How the console writes dates; Django looks for a package per language here (FORMAT_MODULE_PATH)."""
