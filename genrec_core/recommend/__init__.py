"""From histories or request files to ranked items, without torch."""
