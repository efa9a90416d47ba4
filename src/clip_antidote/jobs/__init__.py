"""The jobs behind the commands: they tie the rooms together and write result folders."""
