"""One thread, the options, and connections that are made again whenever they are lost."""
