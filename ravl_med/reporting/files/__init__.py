"""What a run leaves on the disk: its folder, its data, what draws the report again."""
