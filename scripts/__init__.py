"""The commands of `vanilla-transformer`, one file each; `command_line.py` finds and runs them."""
